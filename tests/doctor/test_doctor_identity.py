"""Tokens and their refusals, as azure-identity words them, and schedules, names and clocks at their edges."""

from __future__ import annotations

from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError

from doctor.clocks import our_clock, product_clock
from doctor.configuration import is_schedule, known_settings, misspelled, task_hub_findings
from doctor.findings import Finding
from doctor.identity import in_short, token_findings
from local.sentinel.identity import encode
from settings import DestinationSettings

NOW = 1_800_000_000.0
TENANT = "11111111-1111-1111-1111-111111111111"


def destination(
    endpoint: str = "https://x.ingest.monitor.azure.com", audience: str = "https://monitor.azure.com"
) -> Any:
    return DestinationSettings("soc", endpoint, ("dcr-0",), audience, {})


class Credential:
    """Gives a token of these claims, or fails."""

    def __init__(self, failure: Exception | None = None, **claims: Any) -> None:
        self.failure = failure
        self.claims = {"aud": "https://monitor.azure.com", "tid": TENANT, "nbf": NOW - 60, "exp": NOW + 3600, **claims}

    def get_token(self, scope: str) -> Any:
        assert scope.endswith("/.default")
        if self.failure is not None:
            raise self.failure
        return SimpleNamespace(token=encode(self.claims))


def found(credential: Any, tenant: str = "", where: Any = None) -> list[tuple[str, str]]:
    findings = token_findings(where or destination(), credential, tenant, NOW)
    return [(finding.id, finding.severity) for finding in findings]


@pytest.mark.parametrize(
    ("credential", "tenant", "expected"),
    [
        (Credential(), "", [("identity.token", "ok")]),
        (Credential(), TENANT.upper(), [("identity.token", "ok")]),
        (Credential(), "contoso.onmicrosoft.com", [("identity.token", "ok")]),
        (Credential(), "2" + TENANT[1:], [("identity.tenant", "error")]),
        (Credential(aud="https://monitor.azure.com/"), "", [("identity.token", "ok")]),
        (Credential(aud=TENANT), "", [("identity.token", "ok")]),
        (Credential(aud="https://vault.azure.net"), "", [("identity.audience", "error")]),
        (Credential(exp=NOW - 1), "", [("identity.expiry", "error")]),
        (Credential(exp=NOW + 60), "", [("identity.expiry", "warning")]),
        (Credential(nbf=NOW + 900), "", [("clock.ours", "error")]),
        (Credential(ClientAuthenticationError("AADSTS500011: The resource was not found.")), "", [("identity.audience", "error")]),
        (Credential(ClientAuthenticationError("AADSTS7000215: Invalid client secret.")), "", [("identity.secret", "error")]),
        (Credential(ClientAuthenticationError("AADSTS9999999: Something new.")), "", [("identity.token", "error")]),
        (Credential(ValueError("Invalid tenant id provided.")), "x y", [("identity.tenant", "error")]),
    ],
)  # fmt: skip
def test_what_a_token_says(credential: Credential, tenant: str, expected: list[tuple[str, str]]) -> None:
    """Audience, tenant, times; a name of a tenant cannot be compared with its id, nor an application's id with a URL."""
    assert found(credential, tenant) == expected


def test_the_audience_has_to_be_of_the_endpoint_s_cloud() -> None:
    """US Gov's endpoint does not take a token for the public cloud."""
    gov = destination("https://x.ingest.monitor.azure.us")
    assert found(Credential(), where=gov) == [("identity.audience", "error")]
    right = destination("https://x.ingest.monitor.azure.us", "https://monitor.azure.us")
    assert found(Credential(aud="https://monitor.azure.us"), where=right) == [("identity.token", "ok")]


def test_why_there_is_no_token_is_told_in_short() -> None:
    """azure-identity tells of every credential that it tried."""
    text = (
        "DefaultAzureCredential failed to retrieve a token from the included credentials.\nAttempted credentials:\n"
        "\tEnvironmentCredential: unavailable.\n\tManagedIdentityCredential: Identity not found\n\tAzureCliCredential: not found"
    )
    assert in_short(text).endswith("from the included credentials. ManagedIdentityCredential: Identity not found")
    entra = "Authentication failed: AADSTS7000222: The secret is expired. Trace ID: 1234\nmore"
    assert in_short(entra) == "AADSTS7000222: The secret is expired"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("0 0 2 * * 6", True),
        ("0 */5 * * * *", True),
        ("0 0 9-17 * * mon-fri", True),
        ("0 0,30 * 1 JAN *", True),
        ("24:00:00", True),
        ("0 2 * * 6", False),
        ("0 60 * * * *", False),
        ("0 0 17-9 * * *", False),
        ("0 */0 * * * *", False),
        ("0 0 2 * * someday", False),
        ("daily", False),
    ],
)
def test_a_schedule_has_six_fields_within_bounds(text: str, right: bool) -> None:
    """Seconds first, as NCRONTAB has it; or a TimeSpan."""
    assert is_schedule(text) == right


def test_names_that_look_like_a_setting_are_told() -> None:
    """A letter off, or in small letters; not what the platform sets, not what is set under its right name as well."""
    assert misspelled(
        {
            "DCR_IMUTABLE_ID": "",
            "tenable_secret_key": "",
            "NATIVE_KERNAL": "",
            "PATH": "",
            "WEBSITE_SITE_NAME": "",
            "LANG": "",
        }
    ) == [
        ("DCR_IMUTABLE_ID", "DCR_IMMUTABLE_ID"),
        ("NATIVE_KERNAL", "NATIVE_KERNEL"),
        ("tenable_secret_key", "TENABLE_SECRET_KEY"),
    ]
    assert misspelled({"DCR_IMUTABLE_ID": "", "DCR_IMMUTABLE_ID": ""}) == []
    assert misspelled(dict.fromkeys(known_settings(), "")) == []


def ids(findings: Any) -> list[tuple[str, str]]:
    listed: list[Finding] = list(findings)
    return [(finding.id, finding.severity) for finding in listed]


def test_clocks_are_compared_with_the_way_in_mind() -> None:
    """Some seconds are the way of the answer; minutes are not; a header that is none says nothing."""
    assert ids(our_clock("x", formatdate(NOW, usegmt=True), NOW + 3)) == [("clock.ours", "ok")]
    assert ids(our_clock("x", formatdate(NOW, usegmt=True), NOW + 90)) == [("clock.ours", "warning")]
    assert ids(our_clock("x", formatdate(NOW, usegmt=True), NOW - 900)) == [("clock.ours", "error")]
    assert ids(our_clock("x", "yesterday", NOW)) == []
    assert ids(product_clock("x", formatdate(NOW, usegmt=True), NOW + 200)) == []
    assert ids(product_clock("x", formatdate(NOW, usegmt=True), NOW - 7200)) == [("product.clock", "warning")]
    assert ids(product_clock("x", formatdate(NOW, usegmt=True), NOW + 7200)) == [("product.clock", "error")]


def test_the_task_hub_s_name_may_be_a_setting() -> None:
    """The host replaces %NAME%."""
    host = {"extensions": {"durableTask": {"hubName": "%HUB%"}}}
    assert ids(task_hub_findings(host, {"HUB": "caasm1"}))[0] == ("taskhub.name", "ok")
    assert ids(task_hub_findings(host, {}))[0] == ("taskhub.name", "error")
