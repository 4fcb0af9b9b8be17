"""The rules and tables as Azure Resource Manager shows them: what a deployment check reads. GET only.

Invariant: they are those of the contract and of the emulator's own rule, but for what somebody has taken out or retyped on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from local.sentinel.flows import Flow
from sentinel.contract import Column
from sentinel.tables import Table

GROUP: Final = "/subscriptions/local/resourceGroups/local/providers"
WORKSPACE: Final = f"{GROUP}/Microsoft.OperationalInsights/workspaces/local"
ENDPOINT: Final = f"{GROUP}/Microsoft.Insights/dataCollectionEndpoints/local"


def rule_id(immutable_id: str) -> str:
    """The ARM id of the rule with that immutable id."""
    return f"{GROUP}/Microsoft.Insights/dataCollectionRules/{immutable_id}"


@dataclass(frozen=True, slots=True)
class Drift:
    """How the deployment differs from the contract: columns (of a stream or table, by its name) that it lacks or has as another type.

    `redirected`: tables that streams flow to instead of their own; `absent`: names of streams or tables that there are none of; `immutable_id`, `endpoint`: instead of the right ones; `denied`: nobody may read.
    """

    without: Mapping[str, Sequence[str]] = field(default_factory=dict)
    retyped: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    redirected: Mapping[str, str] = field(default_factory=dict)
    absent: Sequence[str] = ()
    immutable_id: str = ""
    endpoint: str = ""
    denied: bool = False


@dataclass(slots=True)
class Resources:
    """Answers GET of the rules, their endpoint, and the tables of the workspace."""

    rules: Sequence[str]
    streams: Mapping[str, Flow]
    tables: Sequence[Table]
    drift: Drift = field(default_factory=Drift)

    async def get(self, request: web.Request) -> web.Response:
        """One resource, by its ARM id."""
        if not request.headers.get("Authorization", "").lower().startswith("bearer "):
            return _refusal(401, "AuthenticationFailed")
        if self.drift.denied:
            return _refusal(403, "AuthorizationFailed")
        kind, _, name = request.path.removeprefix(GROUP).rpartition("/")
        if request.path == ENDPOINT:
            here = self.drift.endpoint or f"{request.scheme}://{request.host}"
            return web.json_response({"id": ENDPOINT, "properties": {"logsIngestion": {"endpoint": here}}})
        if f"{GROUP}{kind}/{name}" == rule_id(name) and name in self.rules:
            return web.json_response(self._rule(name))
        for table in self.tables:
            if request.path == f"{WORKSPACE}/tables/{table.name}" and table.name not in self.drift.absent:
                return web.json_response(self._table(table))
        return _refusal(404, "ResourceNotFound")

    def _rule(self, name: str) -> dict[str, Any]:
        given = {stream: flow for stream, flow in self.streams.items() if stream not in self.drift.absent}
        declared = {stream: {"columns": self._columns(stream, flow.declared.columns)} for stream, flow in given.items()}
        flows = [
            {
                "streams": [stream],
                "destinations": ["workspace"],
                "outputStream": f"Custom-{self.drift.redirected.get(stream, flow.table.name)}",
            }
            for stream, flow in given.items()
        ]
        properties = {
            "immutableId": self.drift.immutable_id or name,
            "dataCollectionEndpointId": ENDPOINT,
            "streamDeclarations": declared,
            "dataFlows": flows,
        }
        return {"id": rule_id(name), "name": name, "properties": properties}

    def _table(self, table: Table) -> dict[str, Any]:
        columns = self._columns(table.name, table.columns)
        for column in columns:
            column["type"] = {"datetime": "dateTime"}.get(column["type"], column["type"])
        schema = {"name": table.name, "columns": columns, "standardColumns": [{"name": "TenantId", "type": "guid"}]}
        return {"id": f"{WORKSPACE}/tables/{table.name}", "properties": {"plan": "Analytics", "schema": schema}}

    def _columns(self, of: str, columns: Iterable[Column]) -> list[dict[str, str]]:
        left_out, retyped = self.drift.without.get(of, ()), self.drift.retyped.get(of, {})
        return [
            {"name": column.name, "type": retyped.get(column.name, column.type)}
            for column in columns
            if column.name not in left_out
        ]


def _refusal(status: int, code: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": code}}, status=status)
