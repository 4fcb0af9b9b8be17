"""`python -m local.contentcheck`: check everything in sentinel/content; exit code 1 for a finding."""

from __future__ import annotations

import sys

from local.contentcheck import check

found = check()
print("\n".join(map(str, found)) or "no findings")
sys.exit(1 if found else 0)
