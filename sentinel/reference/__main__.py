"""`python -m sentinel.reference`: write what is made from the table contract, and say what changed."""

from __future__ import annotations

import sys

from sentinel.reference import write

sys.stdout.write("".join(f"{name}\n" for name in write()) or "nothing to do\n")
