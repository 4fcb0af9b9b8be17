"""What is made from the table contract: `python -m sentinel.reference` (`make generate`) writes every file that `files()` lists.

Invariant: a file is a pure function of the contract and of sentinel/content, so it is the same on every machine; nobody edits one by hand, and a test
holds each against what would be written now.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sentinel.reference.detections import hunting_json, rules_json
from sentinel.reference.page import markdown
from sentinel.reference.playbooks import FOLDER as PLAYBOOK_FOLDER
from sentinel.reference.playbooks import playbooks
from sentinel.reference.resources import custom_table, dataflows, kql_schema, streams, table_resources
from sentinel.reference.samples import ndjson
from sentinel.reference.workbook import PATH as WORKBOOK
from sentinel.reference.workbook import workbook
from sentinel.tables import TABLES

ROOT: Final = Path(__file__).resolve().parents[2]


def files() -> dict[str, str]:
    """Every generated file: its path from the repository's root, and its text."""
    return {
        "docs/columns.md": markdown(),
        "infra/generated/tables.json": table_resources(),
        "infra/generated/streams.json": streams(),
        "infra/generated/dataflows.json": dataflows(),
        "infra/generated/dataflows-lean.json": dataflows(lean=True),
        "infra/generated/kql-schema.json": kql_schema(),
        WORKBOOK: workbook(),
        **playbooks(),
        "infra/generated/rules.json": rules_json(),
        "infra/generated/hunting.json": hunting_json(),
        **{f"docs/samples/{table.name}.ndjson": ndjson(table) for table in TABLES},
        **{f"sentinel/content/custom-tables/{table.name}.json": custom_table(table) for table in TABLES},
    }


def folders() -> frozenset[str]:
    """Folders that hold generated files only; what else is in one is a leftover."""
    return frozenset(
        {
            "infra/generated",
            "docs/samples",
            "sentinel/content/custom-tables",
            "sentinel/content/workbooks",
            PLAYBOOK_FOLDER,
        }
    )


def write(root: Path = ROOT) -> list[str]:
    """Write what is not as it should be, remove leftovers, and give the paths of both."""
    wanted = files()
    changed = []
    for folder in folders():
        for path in sorted((root / folder).glob("*")):
            name = path.relative_to(root).as_posix()
            if name not in wanted:
                path.unlink()
                changed.append(name)
    for name, text in wanted.items():
        path = root / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(name)
    return changed
