"""The deployed rule and tables against the contract of sentinel/tables: what the service would drop, refuse or store as something else.

Invariant: read only, and every difference of a rule or a table is told in one finding, so that one deployment mends them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from contracts import CaasmError, JsonDict
from doctor.findings import Finding, doubt, fine, wrong
from doctor.management import NotAllowedError, NotThereError
from sentinel.tables import TABLES, Table
from settings import DestinationSettings

RULE_VERSION: Final = "2023-03-11"

TABLE_VERSION: Final = "2025-07-01"

NAMED_AT_MOST: Final = 12
"""Columns in one finding."""


class Reads(Protocol):
    """Where resources are read."""

    def get(self, resource_id: str, api_version: str) -> JsonDict:
        """The resource, as `doctor.management.Management` gives it."""


@dataclass(frozen=True, slots=True)
class Places:
    """ARM ids of the rules, in the order of the destination's, and of the workspace; empty where they are not known."""

    rules: tuple[str, ...]
    workspace: str


def contract_findings(destination: DestinationSettings, places: Places, reads: Reads) -> Iterator[Finding]:
    """Every difference between what is deployed and the contract, for one destination."""
    if len(places.rules) not in {0, len(destination.rule_ids)}:
        yield wrong(
            "contract.rule", destination.name, f"{len(places.rules)} resource ids for {len(destination.rule_ids)} rules"
        )
        return
    for rule, resource_id in zip(destination.rule_ids, places.rules, strict=False):
        try:
            found = reads.get(resource_id, RULE_VERSION)
            yield from _rule(destination, rule, found, _endpoint(found, reads))
        except NotThereError as error:
            yield wrong("contract.rule", rule, error.reason)
        except CaasmError as error:
            yield _unread(rule, error)
    if places.workspace:
        yield from _tables(places.workspace, reads)


def _unread(subject: str, error: CaasmError) -> Finding:
    if isinstance(error, NotAllowedError):
        return doubt("contract.access", subject, error.reason)
    return doubt("contract.access", subject, f"could not be compared: {error.reason}")


def _endpoint(rule: JsonDict, reads: Reads) -> str:
    """The ingestion endpoint of a rule: its own, or that of its data collection endpoint; empty where that cannot be read."""
    properties = rule.get("properties", {})
    own = (properties.get("endpoints") or {}).get("logsIngestion")
    if own:
        return str(own)
    try:
        other = reads.get(str(properties["dataCollectionEndpointId"]), RULE_VERSION)
        return str(other["properties"]["logsIngestion"]["endpoint"])
    except (KeyError, TypeError, CaasmError):
        return ""


def _rule(destination: DestinationSettings, rule: str, found: JsonDict, endpoint: str) -> Iterator[Finding]:
    properties = found.get("properties", {})
    right = True
    if properties.get("immutableId") != rule:
        yield wrong("contract.rule", rule, f"{found.get('id')} has the immutable id {properties.get('immutableId')!r}")
        right = False
    if endpoint and endpoint.rstrip("/").lower() != destination.endpoint.rstrip("/").lower():
        yield wrong("contract.endpoint", rule, f"the rule's endpoint is {endpoint}, the setting {destination.endpoint}")
        right = False
    declared = properties.get("streamDeclarations") or {}
    flows = {
        stream: str(flow.get("outputStream", stream))
        for flow in properties.get("dataFlows") or []
        for stream in flow.get("streams", [])
    }
    for table in TABLES:
        stream = destination.streams[table.name]
        for finding in _stream(table, stream, declared, flows):
            yield finding
            right = False
    if right:
        yield fine("contract.column", rule, f"{len(TABLES)} streams as the contract has them")


def _stream(table: Table, stream: str, declared: Mapping[str, JsonDict], flows: Mapping[str, str]) -> Iterator[Finding]:
    if stream not in declared:
        yield wrong("contract.stream", stream, "the rule does not declare it")
        return
    if flows.get(stream) != f"Custom-{table.name}":
        yield wrong("contract.stream", stream, f"flows to {flows.get(stream, 'nothing')!r}, not to Custom-{table.name}")
    differing = _differences(table, declared[stream].get("columns", []))
    if differing:
        yield wrong("contract.column", stream, differing)


def _tables(workspace: str, reads: Reads) -> Iterator[Finding]:
    right = []
    for table in TABLES:
        try:
            found = reads.get(f"{workspace.rstrip('/')}/tables/{table.name}", TABLE_VERSION)
        except NotThereError:
            yield wrong("contract.table", table.name, "the workspace does not have it")
            continue
        except CaasmError as error:
            yield _unread(table.name, error)
            return
        properties = found.get("properties", {})
        schema = properties.get("schema") or {}
        differing = _differences(table, [*(schema.get("standardColumns") or []), *(schema.get("columns") or [])])
        if differing:
            yield wrong("contract.table_column", table.name, differing)
        elif properties.get("plan", "Analytics") != "Analytics":
            yield doubt(
                "contract.table_column", table.name, f"is of the plan {properties['plan']}: rules do not read it"
            )
        else:
            right.append(table.name)
    if len(right) == len(TABLES):
        yield fine("contract.table_column", "workspace", f"{len(right)} tables as the contract has them")


def _differences(table: Table, columns: Sequence[JsonDict]) -> str:
    """The contract's columns that are missing or of another type, in words; columns that only the deployment has do no harm."""
    given = {str(column["name"]): _type(column["type"]) for column in columns}
    missing = [column.name for column in table.columns if column.name not in given]
    others = [
        f"{column.name} is {given[column.name]}, not {column.type}"
        for column in table.columns
        if column.name in given and given[column.name] != _type(column.type)
    ]
    found = [*([f"without {_some(missing)}"] if missing else []), *([_some(others)] if others else [])]
    return "; ".join(found)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return ", ".join(names[:NAMED_AT_MOST]) + more


def _type(name: str) -> str:
    """A type's name as both the rule (datetime) and the table (dateTime, bool) would say it."""
    lowered = str(name).lower()
    return {"bool": "boolean"}.get(lowered, lowered)
