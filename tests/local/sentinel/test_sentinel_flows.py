"""The rule's data flows as the emulator runs them: what other senders' findings become, what is dropped, what a rule refuses."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.sentinel.decode import decode
from local.sentinel.flows import Flow, RowTransform, RuleError, flows
from local.sentinel.process import Server
from sentinel.tables import ASSETS, BY_NAME, EVENT_SEVERITY, FINDING_REPORTS, FINDINGS, TABLES, Stream
from transforms.severity import EVENT_SEVERITY as SENT_EVENT_SEVERITY

NOW = datetime(2026, 11, 21, 6)  # noqa: DTZ001 - times of receipt are naive and UTC


@pytest.fixture(scope="module")
def reports() -> Flow:
    """The flow of other senders' findings."""
    return flows(TABLES)[FINDING_REPORTS.name]


def received(flow: Flow, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    """What is stored of these rows, values that are there only."""
    assert flow.transform is not None
    batch = decode(json.dumps(rows).encode(), flow.declared, NOW, flow.transform.apply).batch
    return [{name: value for name, value in row.items() if value not in {None, ""}} for row in batch.to_pylist()]


def report(**more: Any) -> dict[str, Any]:
    """A finding as another sender gives it."""
    return {"EntityProduct": "Trivy", "EntityOriginalId": "CVE-1@web", **more}


def test_our_own_streams_pass_as_they_are() -> None:
    """Nothing is done, so nothing is paid."""
    found = flows(TABLES)
    assert [found[table.stream] for table in TABLES] == [Flow(table, table) for table in TABLES]
    assert set(found) == {table.stream for table in TABLES} | {FINDING_REPORTS.name}
    assert set(flows([ASSETS])) == {ASSETS.stream}


@pytest.mark.parametrize(
    ("words", "score", "severity", "original", "basis"),
    [
        ("CRITICAL", None, "Critical", "CRITICAL", "label"),
        ("P1", 1.0, "Critical", "P1", "label"),
        ("Important", None, "High", "Important", "label"),
        ("moderate", None, "Medium", "moderate", "label"),
        ("minor", None, "Low", "minor", "label"),
        ("info", None, "Informational", "info", "label"),
        ("purple", 9.0, "Unknown", "purple", "none"),
        (None, 10.0, "Critical", "10.0", "number"),
        (None, 9.0, "Critical", "9.0", "number"),
        (None, 8.9, "High", "8.9", "number"),
        (None, 4.0, "Medium", "4.0", "number"),
        (None, 0.1, "Low", "0.1", "number"),
        (None, 0.0, "Informational", "0.0", "number"),
        (None, 10.1, "Unknown", "10.1", "none"),
        (None, -1.0, "Unknown", "-1.0", "none"),
        (None, None, "Unknown", None, "none"),
        ("", 7, "High", "7.0", "number"),
    ],
)
def test_severity_comes_to_the_common_scale(
    reports: Flow, words: str | None, score: float | None, severity: str, original: str | None, basis: str
) -> None:
    """Words before numbers, CVSS's bands for numbers, Unknown for what cannot be read; the original is kept."""
    (row,) = received(reports, report(ReportedSeverity=words, ReportedScore=score))
    assert (row["Severity"], row.get("EventOriginalSeverity"), row["SeverityBasis"]) == (severity, original, basis)
    assert row["EventSeverity"] == EVENT_SEVERITY[severity] == SENT_EVENT_SEVERITY[severity]


@pytest.mark.parametrize(
    ("given", "status"),
    [("", "Open"), ("New", "Open"), ("RESOLVED", "Fixed"), ("Risk Accepted", "Accepted"), ("whatever", "Unknown")],
)
def test_a_state_comes_to_the_common_words(reports: Flow, given: str, status: str) -> None:
    """Nothing said means open."""
    (row,) = received(reports, report(OriginalStatus=given))
    assert row["FindingStatus"] == status


def test_a_report_becomes_a_whole_row(reports: Flow) -> None:
    """With a key, the envelope, names in lower case, the sender's time; without what the table has no column for."""
    sent = report(
        TimeGenerated="2026-11-21T05:00:00Z", CveId="CVE-1", DvcHostname="WEB-07", Protocol="TCP", Port=22, RawPayload={"x": 1},
        AssetId="tenable:1", LastSeen="2026-11-20T00:00:00Z",
    )  # fmt: skip
    (row,) = received(reports, sent)
    assert row == {
        "TimeGenerated": NOW - timedelta(hours=1), "EntityFeedType": "Changefeed", "EntityIsDeleted": False, "EntityProduct": "Trivy",
        "EntityOriginalId": "CVE-1@web", "SourceStream": "reports", "FindingId": "trivy:CVE-1@web", "AssetId": "tenable:1",
        "FindingType": "Vulnerability", "Severity": "Unknown", "EventSeverity": "Informational", "SeverityBasis": "none", "CveId": "CVE-1",
        "FindingStatus": "Open", "Port": 22, "Protocol": "tcp", "DvcHostname": "web-07", "LastSeen": NOW - timedelta(hours=30),
        "_TimeReceived": NOW,
    }  # fmt: skip


def test_what_is_no_finding_is_left_out_and_counted(reports: Flow) -> None:
    """Without product or identifier there is no key; what nobody saw for a year is history. Order is kept."""
    old = (datetime.now(UTC) - timedelta(days=400)).isoformat()
    rows = [report(EntityOriginalId=f"f{at}") for at in range(3)]
    sent = [
        rows[0],
        report(EntityOriginalId=""),
        report(EntityProduct=None),
        rows[1],
        report(LastSeen=old),
        {},
        rows[2],
    ]
    assert reports.transform is not None
    result = decode(json.dumps(sent).encode(), reports.declared, NOW, reports.transform.apply)
    assert result.batch["FindingId"].to_pylist() == ["trivy:f0", "trivy:f1", "trivy:f2"]
    assert result.counts.filtered == 4
    nothing = decode(b"[{}]", reports.declared, NOW, reports.transform.apply)
    assert (nothing.batch.num_rows, nothing.counts.filtered) == (0, 1)
    assert nothing.batch.schema == result.batch.schema


def test_several_threads_do_not_see_each_others_rows(reports: Flow) -> None:
    """Each request's rows become that request's rows."""

    def one(at: int) -> set[str]:
        rows = received(reports, *(report(EntityOriginalId=f"{at}-{n}") for n in range(20)))
        return {row["FindingId"].split(":")[1].split("-")[0] for row in rows}

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(24))) == [{str(at)} for at in range(24)]


@pytest.mark.parametrize("table", [ASSETS, FINDINGS], ids=lambda table: table.name)
def test_lean_drops_columns_and_no_rows(table: Any) -> None:
    """All else is as it was sent, lists as JSON; also when a list is none of texts."""
    flow = flows(TABLES, lean=True)[table.stream]
    full = {c.name: list(c.example) if isinstance(c.example, tuple) else c.example for c in table.columns}
    now = datetime.now(UTC).replace(tzinfo=None)
    full["TimeGenerated"] = now.isoformat() + "Z"
    body = json.dumps([full, {**full, "Tags": [{"key": "env"}]}]).encode()
    assert flow.transform is not None
    first, second = decode(body, flow.declared, now, flow.transform.apply).batch.to_pylist()
    (plain,) = decode(json.dumps([full]).encode(), table, now).batch.to_pylist()
    lean = {name for name in plain if plain[name] is not None and first[name] is None}
    assert lean == ({"Software", "CustomFields"} if table is ASSETS else {"Description", "Solution", "Evidence", "References", "CvssVector"})  # fmt: skip
    lists = {column.name for column in table.columns if column.type == "dynamic"}
    assert {n: json.loads(first[n]) if n in lists else first[n] for n in first if n not in lean} == {
        n: value for n, value in plain.items() if n not in lean
    }
    assert json.loads(second["Tags"]) == [{"key": "env"}]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("source", "has no column ReportedSeverity"),
        ("source | project Severity = CveId", "no TimeGenerated"),
        ("source | project TimeGenerated, Severity = 1.5", "Severity is real, in CAASM_Findings_CL it is string"),
        ("source | project TimeGenerated, Severity = Nix", "does not run"),
        ("source | where", "does not run"),
    ],
)
def test_a_rule_refuses_a_transformation_that_does_not_fit(body: str, says: str) -> None:
    """When it is made, not when the first row comes."""
    with pytest.raises(RuleError, match=says):
        RowTransform(FINDING_REPORTS, FINDINGS, body)


def test_a_stream_may_be_of_any_columns() -> None:
    """Only the result has to fit."""
    stream: Stream = replace(FINDING_REPORTS, columns=FINDING_REPORTS.columns[:2])
    transform = RowTransform(stream, FINDINGS, "source | extend AssetName = strcat('a', EntityVendor)")
    (row,) = received(Flow(stream, FINDINGS, transform), {"EntityVendor": "V"})
    assert row["AssetName"] == "aV"


def test_reports_are_ingested_and_read_back(emulator: Server) -> None:
    """Through the API: counted for the table that they go to, seen by its queries."""
    stats = json.loads(emulator.request("GET", "/_control/stats").body)
    sent = [report(EntityOriginalId="flow-1", ReportedSeverity="moderate"), report(EntityOriginalId="")]
    assert emulator.ingest(json.dumps(sent).encode(), stream=FINDING_REPORTS.name).status == 204
    after = json.loads(emulator.request("GET", "/_control/stats").body)
    table = BY_NAME[FINDING_REPORTS.table].name
    assert after["rows"][table] - stats["rows"].get(table, 0) == 1
    assert after["rows_filtered"] - stats["rows_filtered"] == 1
    query = {"query": f"{table} | where FindingId == 'trivy:flow-1' | project Severity, EventSeverity"}
    answer = emulator.request(
        "POST", "/v1/workspaces/w/query", json.dumps(query).encode(),
        {"Authorization": "Bearer local", "Content-Type": "application/json"},
    )  # fmt: skip
    assert json.loads(answer.body)["tables"][0]["rows"] == [["Medium", "Medium"]]
