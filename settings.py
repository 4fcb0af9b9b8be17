"""The app's settings: one frozen object, read once from the environment that it is given, every missing or bad value reported at once.

Invariant: a secret is only in `SourceSettings.secrets` and in the storage connection string (Azurite's, never Azure's); neither shows in a repr, and
`redacted` takes them out of any text that is about to leave the app.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from contracts import Policy, Stop
from sentinel.governor import MARGIN
from sentinel.packing import BODY_LIMIT_BYTES
from sentinel.tables import TABLES
from sources.registry import SOURCES

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

MIB: Final = 1024 * 1024

PACK_BYTES: Final = 64 * MIB
"""UPLOAD_PACK_BYTES when it is not set. A pack ends with a body that may be nearly empty: one of 60 in raw mode, so that the others make 98 % of all bodies full; one of
5 to 10 in wire mode, where a body holds 6 to 12 MiB of rows (measured on the three products' shapes)."""

MODES: Final = ("raw", "wire")


class SettingsError(Stop):
    """Settings are missing or wrong; the text names each of them and what it should be."""


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """A product's URL and secrets. `missing`: names of settings without which it cannot be loaded. `relations`: whether those of its assets are loaded."""

    url: str
    secrets: Mapping[str, str] = field(repr=False)
    missing: tuple[str, ...] = ()
    relations: bool = True


@dataclass(frozen=True, slots=True)
class DestinationSettings:
    """Where rows go: a Logs Ingestion endpoint, the immutable ids of one or more DCRs that share the load, the token's audience, the DCR stream of each table."""

    name: str
    endpoint: str
    rule_ids: tuple[str, ...]
    audience: str
    streams: Mapping[str, str]

    @property
    def local(self) -> bool:
        """Whether it is an emulator on this machine: plain http on loopback, where any token will do."""
        return is_loopback_http(self.endpoint)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the app reads from its environment. Sizes in bytes, times in seconds; docs/configuration.md explains each."""

    sources: Mapping[str, SourceSettings]
    scheduled: tuple[str, ...]
    staging_account_url: str
    staging_connection_string: str = field(repr=False)
    staging_container: str
    destinations: tuple[DestinationSettings, ...]
    identity_client_id: str | None
    export_segment_bytes: int
    export_s: float
    source_timeout_s: float
    upload_s: float
    upload_pack_bytes: int
    upload_in_flight: int
    upload_body_limit_bytes: int
    upload_mode: str
    dcr_requests_per_minute: float
    dcr_bytes_per_minute: float
    work_at_once: int
    staged_kept_bytes: int
    lanes: int
    page_records: int
    resume_within_s: float
    policy: Policy
    full_schedule: str = ""
    delta_schedule: str = ""
    tenant_id: str = ""
    dcr_resource_ids: tuple[str, ...] = ()
    workspace_resource_id: str = ""
    management_endpoint: str = ""
    health_s: float = 60.0
    ingestion_price_per_gb: float | None = None

    @property
    def secrets(self) -> list[str]:
        """Every secret value, for redaction."""
        values = [secret for source in self.sources.values() for secret in source.secrets.values()]
        parts = dict(part.split("=", 1) for part in self.staging_connection_string.split(";") if "=" in part)
        values += [parts.get("AccountKey", ""), parts.get("SharedAccessSignature", "")]
        # The longest first: a secret may be the beginning of another.
        return sorted({value for value in values if value}, key=lambda value: (-len(value), value))

    def redacted(self, text: str) -> str:
        """The text with every secret replaced by ***."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def is_loopback_http(url: str) -> bool:
    """Whether the URL is plain http to this machine."""
    scheme, host = _place(url)
    return scheme == "http" and host in LOOPBACK


def _place(url: str) -> tuple[str, str]:
    """Scheme and host of a URL; two empty texts for what is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    return parts.scheme, parts.hostname or ""


def _usable(url: str) -> bool:
    scheme, host = _place(url)
    return (scheme == "https" and host != "") or is_loopback_http(url)


class _Reader:
    """Reads values and collects problems instead of stopping at the first."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.problems: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        return self.environment.get(name, "").strip() or default

    def url(self, name: str, default: str = "") -> str:
        value = self.text(name, default).rstrip("/")
        if value and not _usable(value):
            # Only scheme and host are quoted: a pasted URL may carry a password or a signature.
            shown = "://".join(part for part in _place(value) if part)
            self.problems.append(
                f"{name} must begin with https:// and a host (http:// is for loopback only), not {shown!r}"
            )
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        given = self.text(name)
        try:
            value = float(given) if given else default
        except ValueError:
            self.problems.append(f"{name} must be a number, not {given!r}")
            return default
        if not low <= value <= high:
            self.problems.append(f"{name} must be from {low:g} to {high:g}, not {value:g}")
            return default
        return value

    def switch(self, name: str, *, default: bool) -> bool:
        given = self.text(name)
        if given.lower() not in {"", "true", "false"}:
            self.problems.append(f"{name} must be true or false, not {given!r}")
            return default
        return given.lower() == "true" if given else default

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        value = self.number(name, default, low, high)
        if value != int(value):
            self.problems.append(f"{name} must be a whole number, not {value:g}")
        return int(value)


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings in `environment`. Raises SettingsError that lists every problem."""
    settings, problems = look_at(environment)
    if problems:
        raise SettingsError(f"{len(problems)} settings are missing or wrong", "; ".join(problems))
    return settings


def look_at(environment: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """The settings as far as they can be read, and every problem, each beginning with its setting's name. For who has to say what is wrong."""
    reader = _Reader(environment)
    sources = {name: _source(reader, name) for name in SOURCES}
    scheduled = tuple(name.strip() for name in reader.text("SCHEDULED_SOURCES").split(",") if name.strip())
    for name in scheduled:
        if name not in sources:
            reader.problems.append(f"SCHEDULED_SOURCES names {name!r}; there are {', '.join(sorted(sources))}")
        elif sources[name].missing:
            reader.problems.append(f"SCHEDULED_SOURCES names {name}, which needs {', '.join(sources[name].missing)}")
    account_url, connection = reader.url("STAGING_ACCOUNT_URL"), reader.text("STAGING_CONNECTION_STRING")
    if not account_url and not connection:
        reader.problems.append("STAGING_ACCOUNT_URL is missing: the blob endpoint of the storage account")
    share = reader.number("DCR_SHARE", 1.0, 0.001, 1.0)
    settings = Settings(
        sources=sources,
        scheduled=scheduled,
        staging_account_url=account_url,
        staging_connection_string=connection,
        staging_container=reader.text("STAGING_CONTAINER", "caasm"),
        destinations=_destinations(reader),
        identity_client_id=reader.text("AZURE_CLIENT_ID") or None,
        export_segment_bytes=reader.whole("EXPORT_SEGMENT_BYTES", 32 * MIB, 1024, 128 * MIB),
        export_s=reader.number("EXPORT_SECONDS", 60, 1, 540),
        source_timeout_s=reader.number("SOURCE_TIMEOUT_SECONDS", 60, 1, 300),
        upload_s=reader.number("UPLOAD_SECONDS", 240, 1, 540),
        upload_pack_bytes=_pack_bytes(reader),
        upload_in_flight=reader.whole("UPLOAD_IN_FLIGHT", 4, 1, 32),
        upload_body_limit_bytes=reader.whole("UPLOAD_BODY_LIMIT_BYTES", BODY_LIMIT_BYTES, 1024, BODY_LIMIT_BYTES),
        upload_mode=_upload_mode(reader),
        dcr_requests_per_minute=reader.number("DCR_REQUESTS_PER_MINUTE", 12_000, 0, 10_000_000) * share * MARGIN,
        dcr_bytes_per_minute=reader.number("DCR_BYTES_PER_MINUTE", 2_000_000_000, 0, 1e15) * share * MARGIN,
        work_at_once=reader.whole("WORK_AT_ONCE", 1, 1, 16),
        staged_kept_bytes=reader.whole("STAGED_KEPT_BYTES", 32 * MIB, 0, 256 * MIB),
        lanes=reader.whole("LANES", 0, 0, 64),
        page_records=reader.whole("PAGE_RECORDS", 0, 16, 10_000) if reader.text("PAGE_RECORDS") else 0,
        resume_within_s=reader.number("RESUME_WITHIN_SECONDS", 14_400, 0, 86_400),
        policy=_policy(reader),
        full_schedule=reader.text("FULL_SCHEDULE"),
        delta_schedule=reader.text("DELTA_SCHEDULE"),
        tenant_id=reader.text("AZURE_TENANT_ID"),
        dcr_resource_ids=_rule_ids(reader.text("DCR_RESOURCE_ID")),
        workspace_resource_id=reader.text("WORKSPACE_RESOURCE_ID"),
        management_endpoint=reader.url("MANAGEMENT_ENDPOINT", "https://management.azure.com"),
        health_s=reader.number("HEALTH_SECONDS", 60, 1, 200),
        ingestion_price_per_gb=_price(reader),
    )
    return settings, list(dict.fromkeys(reader.problems))


def _price(reader: _Reader) -> float | None:
    return reader.number("INGESTION_PRICE_PER_GB", 0.0, 0, 1e6) if reader.text("INGESTION_PRICE_PER_GB") else None


def _upload_mode(reader: _Reader) -> str:
    mode = reader.text("UPLOAD_MODE", "raw")
    if mode not in MODES:
        reader.problems.append(f"UPLOAD_MODE must be one of {', '.join(MODES)}, not {mode!r}")
        return "raw"
    return mode


def _pack_bytes(reader: _Reader) -> int:
    return reader.whole("UPLOAD_PACK_BYTES", PACK_BYTES, 1024, 128 * MIB)


def _policy(reader: _Reader) -> Policy:
    return Policy(
        pack_bytes=_pack_bytes(reader),
        staged_ahead=reader.whole("STAGED_AHEAD", 2, 1, 16),
        first_wait_s=reader.number("FIRST_WAIT_SECONDS", 2, 0.01, 60),
        longest_wait_s=reader.number("LONGEST_WAIT_SECONDS", 300, 0.01, 3600),
        give_up_after_s=reader.number("GIVE_UP_AFTER_SECONDS", 1800, 0, 86_400),
        first_turn_s=reader.number("FIRST_TURN_SECONDS", 2, 0.1, 600),
        longest_turn_s=reader.number("LONGEST_TURN_SECONDS", 120, 1, 600),
        delete_share=reader.number("DELETE_SHARE", 0.1, 0, 1),
        longest_export_wait_s=reader.number("LONGEST_EXPORT_WAIT_SECONDS", 21_600, 1, 604_800),
    )


def _source(reader: _Reader, name: str) -> SourceSettings:
    prefix = name.upper()
    secrets = {secret: reader.text(f"{prefix}_{secret.upper()}") for secret in SOURCES[name].secrets}
    url = reader.url(f"{prefix}_URL", SOURCES[name].default_url)
    unresolved = [n for n, value in secrets.items() if value.startswith("@Microsoft.KeyVault(")]
    reader.problems += [
        f"{prefix}_{n.upper()} is a Key Vault reference that the platform did not resolve: check the vault's access"
        for n in unresolved
    ]
    missing = [f"{prefix}_{secret.upper()}" for secret, value in secrets.items() if not value]
    if not url:
        missing.insert(0, f"{prefix}_URL")
    return SourceSettings(url, secrets, tuple(missing), reader.switch(f"{prefix}_RELATIONS", default=True))


def _streams() -> dict[str, str]:
    return {table.name: table.stream for table in TABLES}


def _destinations(reader: _Reader) -> tuple[DestinationSettings, ...]:
    audience = reader.url("INGESTION_AUDIENCE", "https://monitor.azure.com")
    listed = reader.text("DESTINATIONS")
    if not listed:
        return (_only_destination(reader, audience),)
    try:
        entries: list[dict[str, Any]] = json.loads(listed)
        found = tuple(_destination(entry, audience) for entry in entries)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reader.problems.append(
            "DESTINATIONS must be a JSON array of objects with name, endpoint and dcr_immutable_id, texts that are not empty "
            f"({type(error).__name__})"
        )
        return ()
    if not found or len({destination.name for destination in found}) != len(found):
        reader.problems.append("DESTINATIONS must name at least one destination, each by a name of its own")
    for destination in found:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", destination.name):
            reader.problems.append(
                f"DESTINATIONS: the name {destination.name!r} must be lower-case letters, digits and dashes (it is part of blob names)"
            )
        if len(set(destination.rule_ids)) != len(destination.rule_ids):
            reader.problems.append(f"DESTINATIONS: {destination.name!r} names a DCR twice")
        if not _usable(destination.endpoint):
            reader.problems.append(
                f"DESTINATIONS: the endpoint of {destination.name!r} must begin with https:// and a host"
            )
    return found


def _only_destination(reader: _Reader, audience: str) -> DestinationSettings:
    endpoint, rules = reader.url("INGESTION_ENDPOINT"), _rule_ids(reader.text("DCR_IMMUTABLE_ID"))
    if not endpoint:
        reader.problems.append("INGESTION_ENDPOINT is missing: the logs ingestion endpoint of the DCE or of the DCR")
    if not rules:
        reader.problems.append("DCR_IMMUTABLE_ID is missing: the DCR's immutable id, dcr-…")
    if len(set(rules)) != len(rules):
        reader.problems.append("DCR_IMMUTABLE_ID names a DCR twice")
    return DestinationSettings("sentinel", endpoint, rules, audience, _streams())


def _destination(entry: dict[str, Any], audience: str) -> DestinationSettings:
    """A destination of the list. Raises ValueError, KeyError or TypeError for an entry that is none."""
    name, endpoint, rule = (entry[key] for key in ("name", "endpoint", "dcr_immutable_id"))
    streams = {**_streams(), **entry.get("streams", {})}
    rules = tuple(rule) if isinstance(rule, list) else _rule_ids(rule)
    wanted = [name, endpoint, *rules, entry.get("audience", audience), *streams.values()]
    if not rules or not all(isinstance(value, str) and value.strip() for value in wanted):
        raise ValueError("a value is empty or no text")
    return DestinationSettings(name, endpoint.rstrip("/"), rules, entry.get("audience", audience), streams)


def _rule_ids(listed: str) -> tuple[str, ...]:
    """The DCRs of a list with commas. Raises AttributeError for what is no text."""
    return tuple(rule.strip() for rule in listed.split(",") if rule.strip())
