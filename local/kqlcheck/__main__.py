"""`python -m local.kqlcheck`: check every function and transformation of sentinel/content, and KQL files that are named; exit code 1 for a finding."""

from __future__ import annotations

import sys
from pathlib import Path

from local.kqlcheck import Query, check, transforms

found = [
    *check([Query(name, Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]]),
    *transforms.check(),
]
print("\n".join(map(str, found)) or "no findings")
sys.exit(1 if found else 0)
