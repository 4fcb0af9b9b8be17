"""Settings: read once, every problem told at once, no secret anywhere it can be seen."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentinel.packing import BODY_LIMIT_BYTES
from sentinel.tables import TABLES
from settings import Settings, SettingsError, read_settings
from sources.registry import SOURCES

KEY = "c2VjcmV0LWtleS1vZi10aGUtYWNjb3VudA=="
CONNECTION = f"DefaultEndpointsProtocol=http;AccountName=dev;AccountKey={KEY};BlobEndpoint=http://127.0.0.1:10000/dev;"
MINIMAL = {
    "STAGING_ACCOUNT_URL": "https://account.blob.core.windows.net/",
    "INGESTION_ENDPOINT": "https://x.westeurope-1.ingest.monitor.azure.com/",
    "DCR_IMMUTABLE_ID": "dcr-0123",
}
SECRETS = {
    f"{name.upper()}_{secret.upper()}": f"hush-{name}-{secret}-{'z' * number}"
    for name, source in SOURCES.items()
    for number, secret in enumerate(source.secrets)
}
URLS = {f"{name.upper()}_URL": f"https://{name}.example.com" for name in SOURCES}


def problems(**environment: str) -> list[str]:
    """What is wrong with these settings beside a minimal set of right ones."""
    with pytest.raises(SettingsError) as raised:
        read_settings({**MINIMAL, **environment})
    found = raised.value.remedy.split("; ")
    assert raised.value.reason == f"{len(found)} settings are missing or wrong"
    return found


def test_little_is_needed() -> None:
    """Three settings, and every other has a default that fits the service."""
    settings = read_settings(MINIMAL)
    assert settings.staging_account_url == "https://account.blob.core.windows.net"
    assert settings.upload_body_limit_bytes == BODY_LIMIT_BYTES
    (destination,) = settings.destinations
    assert (destination.endpoint, destination.rule_ids) == (
        "https://x.westeurope-1.ingest.monitor.azure.com",
        ("dcr-0123",),
    )
    assert destination.audience == "https://monitor.azure.com"
    assert destination.streams == {table.name: table.stream for table in TABLES}
    assert not destination.local
    assert settings.policy.pack_bytes == settings.upload_pack_bytes
    assert settings.identity_client_id is None
    assert set(settings.sources) == set(SOURCES)


def test_every_problem_is_told_at_once_and_once() -> None:
    """An environment where nothing is right."""
    with pytest.raises(SettingsError) as raised:
        read_settings(
            {
                "LANES": "many",
                "UPLOAD_PACK_BYTES": "12",
                "UPLOAD_IN_FLIGHT": "1.5",
                "EXPORT_SECONDS": "nan",
                "LONGEST_TURN_SECONDS": "inf",
                "SCHEDULED_SOURCES": "tenable, nessus",
                "TENABLE_URL": "http://tenable.example.com",
                "INGESTION_AUDIENCE": "monitor.azure.com",
            }
        )
    text = raised.value.remedy
    for name in (
        "LANES", "UPLOAD_PACK_BYTES", "UPLOAD_IN_FLIGHT", "EXPORT_SECONDS", "LONGEST_TURN_SECONDS", "'nessus'", "TENABLE_URL",
        "INGESTION_AUDIENCE", "STAGING_ACCOUNT_URL", "INGESTION_ENDPOINT", "DCR_IMMUTABLE_ID", "SCHEDULED_SOURCES names tenable",
    ):  # fmt: skip
        assert name in text
    assert text.count("UPLOAD_PACK_BYTES must") == 1
    assert raised.value.reason == "12 settings are missing or wrong"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("LANES", "65", "from 0 to 64"),
        ("LANES", "-1", "from 0 to 64"),
        ("LANES", "1e400", "from 0 to 64"),
        ("UPLOAD_BODY_LIMIT_BYTES", "1048577", "1.04858e+06"),
        ("EXPORT_SECONDS", "600", "from 1 to 540"),
        ("STAGED_AHEAD", "0", "from 1 to 16"),
        ("STAGED_AHEAD", "two", "must be a number, not 'two'"),
        ("STAGED_AHEAD", "2.5", "whole number"),
    ],
)
def test_numbers_are_within_their_bounds(name: str, value: str, words: str) -> None:
    """Each with its bounds in the message."""
    (problem,) = problems(**{name: value})
    assert problem.startswith(name)
    assert words in problem


def test_relations_are_loaded_unless_a_source_s_setting_says_false() -> None:
    """Each source by itself; in any case of letters."""
    settings = read_settings({**MINIMAL, "CYCOGNITO_RELATIONS": "False", "TENABLE_RELATIONS": "true"})
    assert {name: source.relations for name, source in settings.sources.items()} == {
        "cycognito": False,
        "device42": True,
        "tenable": True,
    }
    (problem,) = problems(DEVICE42_RELATIONS="off")
    assert problem == "DEVICE42_RELATIONS must be true or false, not 'off'"


@pytest.mark.parametrize(
    "url", ["http://localhost:8080/", "http://127.0.0.1:9", "http://[::1]:9", "https://dce.example.com"]
)
def test_http_is_for_loopback(url: str) -> None:
    """An emulator may speak http; any other endpoint is https."""
    settings = read_settings({**MINIMAL, "INGESTION_ENDPOINT": url})
    assert settings.destinations[0].endpoint == url.rstrip("/")
    assert settings.destinations[0].local == url.startswith("http://")


@pytest.mark.parametrize(
    "url",
    [
        "http://dce.example.com",
        "http://localhost.example.com",
        "http://127.0.0.1@example.com",
        "http://127.0.0.1.example.com",
        "ftp://127.0.0.1",
        "dce.example.com",
        "https://",
        "http://[::1",
        "@Microsoft.KeyVault(SecretUri=https://v.vault.azure.net/secrets/u)",
    ],
)
@pytest.mark.parametrize("name", ["INGESTION_ENDPOINT", "STAGING_ACCOUNT_URL", "TENABLE_URL", "INGESTION_AUDIENCE"])
def test_any_other_url_is_refused(name: str, url: str) -> None:
    """Told with the name of the setting; none raises anything else."""
    (problem,) = problems(**{name: url})
    assert problem.startswith(f"{name} must begin with https://")


def test_a_refused_url_is_not_quoted_with_its_secrets() -> None:
    """A pasted URL may carry a password or a signature."""
    (problem,) = problems(TENABLE_URL="http://user:hunter2@host.example.com/x?sig=abcdef")
    assert "host.example.com" in problem
    assert "hunter2" not in problem
    assert "abcdef" not in problem


def full() -> Settings:
    """Settings with every secret that there is."""
    return read_settings(
        {**MINIMAL, **URLS, **SECRETS, "STAGING_CONNECTION_STRING": CONNECTION, "SCHEDULED_SOURCES": ",".join(SOURCES)}
    )


def test_no_secret_shows() -> None:
    """Neither in repr nor in str, of the settings or of any part."""
    settings = full()
    assert SECRETS
    parts: list[Any] = [settings, *settings.sources.values(), *settings.destinations]
    text = "".join(f"{part!r}{part}" for part in parts)
    for secret in (*SECRETS.values(), KEY, CONNECTION):
        assert secret not in text


def test_secrets_are_taken_out_of_texts() -> None:
    """Each of them, the account's key included; nothing else is touched."""
    settings = full()
    text = settings.redacted(" | ".join([*SECRETS.values(), KEY, "the rest"]))
    assert text == " | ".join(["***"] * (len(SECRETS) + 1) + ["the rest"])


def test_a_secret_that_begins_with_another_leaves_no_rest() -> None:
    """The longer is taken out first."""
    first, second = list(SECRETS)[:2]
    settings = read_settings({**MINIMAL, **URLS, **SECRETS, first: "abc", second: "abcdef"})
    assert settings.redacted("x abcdef y abc z") == "x *** y *** z"


def test_a_shared_access_signature_is_a_secret() -> None:
    """In a connection string, beside or instead of a key."""
    settings = read_settings(
        {**MINIMAL, "STAGING_CONNECTION_STRING": "BlobEndpoint=https://a;SharedAccessSignature=sv=1&sig=abc%3D"}
    )
    assert settings.redacted("GET /?sv=1&sig=abc%3D") == "GET /?***"


def test_an_unresolved_key_vault_reference_is_told() -> None:
    """The platform hands the reference itself over when it may not read the vault."""
    name = next(iter(SECRETS))
    (problem,) = problems(**{name: "@Microsoft.KeyVault(SecretUri=https://v.vault.azure.net/secrets/s)"})
    assert name in problem
    assert "check the vault's access" in problem


def test_a_source_says_what_it_lacks() -> None:
    """An unconfigured source is no problem until it is loaded or scheduled."""
    settings = read_settings(MINIMAL)
    for name, source in SOURCES.items():
        wanted = [f"{name.upper()}_{secret.upper()}" for secret in source.secrets]
        assert [m for m in settings.sources[name].missing if not m.endswith("_URL")] == wanted
        assert (f"{name.upper()}_URL" in settings.sources[name].missing) == (not source.default_url)
    assert all(not source.missing for source in full().sources.values())
    assert any(
        "SCHEDULED_SOURCES names tenable, which needs" in problem for problem in problems(SCHEDULED_SOURCES="tenable")
    )


def destination(**more: Any) -> dict[str, Any]:
    """An entry of DESTINATIONS."""
    return {"name": "eu", "endpoint": "https://eu.example.com/", "dcr_immutable_id": "dcr-1", **more}


def test_several_destinations() -> None:
    """Each with its endpoint, rule, audience, and streams of its own where named."""
    listed = [
        destination(streams={TABLES[0].name: "Custom-Other"}),
        destination(name="us", endpoint="http://127.0.0.1:9/", audience="https://monitor.azure.us"),
    ]
    found = read_settings({**MINIMAL, "DESTINATIONS": json.dumps(listed)}).destinations
    assert [(d.name, d.endpoint, d.audience, d.local) for d in found] == [
        ("eu", "https://eu.example.com", "https://monitor.azure.com", False),
        ("us", "http://127.0.0.1:9", "https://monitor.azure.us", True),
    ]
    assert found[0].streams[TABLES[0].name] == "Custom-Other"
    assert found[1].streams[TABLES[0].name] == TABLES[0].stream


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ("[", "must be a JSON array"),
        ("{}", "at least one destination"),
        ("[]", "at least one destination"),
        ("3", "must be a JSON array"),
        ('["eu"]', "must be a JSON array"),
        (json.dumps([destination(), destination()]), "a name of its own"),
        (json.dumps([{"name": "eu"}]), "must be a JSON array"),
        (json.dumps([destination(dcr_immutable_id="")]), "not empty"),
        (json.dumps([destination(name=5)]), "not empty"),
        (json.dumps([destination(streams=["x"])]), "must be a JSON array"),
        (json.dumps([destination(name="a/b")]), "part of blob names"),
        (json.dumps([destination(endpoint="http://eu.example.com")]), "must begin with https://"),
        (json.dumps([destination(endpoint="https://")]), "must begin with https://"),
    ],
)
def test_destinations_that_are_none(listed: str, words: str) -> None:
    """One problem, with what the setting should be; never another error."""
    (problem,) = problems(DESTINATIONS=listed)
    assert words in problem


def test_several_dcrs_of_a_destination() -> None:
    """Separated by commas, or a list in DESTINATIONS; none twice."""
    (only,) = read_settings({**MINIMAL, "DCR_IMMUTABLE_ID": "dcr-1, dcr-2,"}).destinations
    assert only.rule_ids == ("dcr-1", "dcr-2")
    entry = {"name": "a", "endpoint": "https://x.example"}
    for given in (["dcr-1", "dcr-2"], "dcr-1,dcr-2"):
        listed = json.dumps([entry | {"dcr_immutable_id": given}])
        (found,) = read_settings({**MINIMAL, "DESTINATIONS": listed}).destinations
        assert found.rule_ids == ("dcr-1", "dcr-2")
    for bad in ({"DCR_IMMUTABLE_ID": "dcr-1,dcr-1"}, {"DESTINATIONS": json.dumps([entry | {"dcr_immutable_id": []}])}):
        with pytest.raises(SettingsError, match=r"DCR twice|not empty"):
            read_settings({**MINIMAL, **bad})


def test_the_quota_is_the_services_times_share_and_margin() -> None:
    """An instance of four takes a quarter, and a little less than all of it."""
    settings = read_settings({**MINIMAL, "DCR_SHARE": "0.25"})
    assert settings.dcr_requests_per_minute == pytest.approx(12_000 * 0.25 * 0.95)
    assert settings.dcr_bytes_per_minute == pytest.approx(2e9 * 0.25 * 0.95)


def test_the_upload_s_mode_is_one_of_two() -> None:
    """And what is set of a pack's size is the policy's."""
    wire = read_settings({**MINIMAL, "UPLOAD_MODE": "wire", "UPLOAD_PACK_BYTES": "2000000"})
    assert (wire.upload_mode, wire.policy.pack_bytes, wire.upload_pack_bytes) == ("wire", 2_000_000, 2_000_000)
    with pytest.raises(SettingsError, match="UPLOAD_MODE"):
        read_settings({**MINIMAL, "UPLOAD_MODE": "zip"})
