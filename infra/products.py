"""The products' settings for the templates: `python infra/products.py` writes infra/products.json from the source registry.

Invariant: the file is generated; a test holds it against the registry, so that a new product needs no line here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

PAGE: Final = ROOT / "infra" / "products.json"


def products() -> str:
    """The JSON: per source the names of its secrets, and whether its URL has to be given."""
    from sources.registry import SOURCES

    made = {name: {"secrets": list(source.secrets)} for name, source in sorted(SOURCES.items())}
    return json.dumps(made, indent=2) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(products(), encoding="utf-8")
