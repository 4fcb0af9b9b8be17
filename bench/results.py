"""bench/results.json: what was measured last, part by part.

Invariant: figures of two machines, Pythons or package versions, or with and without the kernel, are never in one file: what was measured on another machine is dropped when a part is
measured anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.machine import machine

JsonDict = dict[str, Any]

FILE: Final = Path(__file__).resolve().parent / "results.json"


def read(path: Path) -> JsonDict:
    """The results in the file, empty when there is none."""
    found: JsonDict = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def merged(old: JsonDict, new: JsonDict, where: JsonDict) -> JsonDict:
    """The results with `new` in place of what was measured before of the same.

    Lines of `end_to_end` are replaced by source, assets, and whether relations were loaded, of `stages` by source; other parts as a whole. `engine_share` is the largest
    of the largest size that was measured.
    """
    kept = old if old.get("machine") == where else {}
    loads = _replaced(kept.get("end_to_end", []), new.get("end_to_end", []), ("source", "assets", "relations"))
    return {
        "machine": where,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "end_to_end": sorted(loads, key=lambda line: (line["source"], not line["relations"], line["assets"])),
        "upload": new.get("upload", kept.get("upload", {})),
        "engine_share": engine_share(loads),
        "stages": _replaced(kept.get("stages", []), new.get("stages", []), ("source",)),
    }


def _replaced(old: Sequence[JsonDict], new: Sequence[JsonDict], names: Sequence[str]) -> list[JsonDict]:
    fresh = {tuple(line[name] for name in names) for line in new}
    return [line for line in old if tuple(line[name] for name in names) not in fresh] + list(new)


def engine_share(end_to_end: Sequence[JsonDict]) -> float | None:
    """The durable engine's share of the app's CPU time: the largest of any source, at the largest size measured; None without loads."""
    largest = max((line["assets"] for line in end_to_end), default=0)
    return max((line["engine_share"] for line in end_to_end if line["assets"] == largest), default=None)


def add(path: Path, new: JsonDict) -> JsonDict:
    """Merge what was measured into the file; the results as they stand then."""
    result = merged(read(path), new, machine())
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result
