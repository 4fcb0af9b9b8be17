"""Everything that is looked at in an installation, as checks that run side by side.

Invariant: whatever is not set up is not looked at: its absence is the settings' finding, once. Clients are built inside of the checks that use them, so
that one that cannot be built is that check's finding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contracts import JsonDict
from doctor.columns import Places, Reads, contract_findings
from doctor.configuration import (
    configured,
    kernel_findings,
    schedule_findings,
    settings_findings,
    task_hub_findings,
    transport_findings,
)
from doctor.examine import Check, examine
from doctor.findings import Finding, Report, wrong
from doctor.identity import token_findings
from doctor.ingestion import ingestion_findings
from doctor.products import product_findings
from doctor.storage import storage_findings
from sentinel.ingestion import Door
from settings import DestinationSettings, Settings
from sources.registry import SOURCES

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.storage.blob import ContainerClient


@dataclass(frozen=True, slots=True)
class Installation:
    """What is examined: the environment, what was read of it, host.json, and how clients are had. `now`: Unix time in seconds."""

    environment: Mapping[str, str]
    settings: Settings
    problems: list[str]
    host: JsonDict
    container: Callable[[], ContainerClient]
    credential: Callable[[DestinationSettings], TokenCredential]
    doors: Callable[[DestinationSettings], AbstractContextManager[Sequence[Door]]]
    management: Callable[[], Reads]
    now: Callable[[], float] = time.time


def examination(installation: Installation, sources: Sequence[str] = (), budget_s: float | None = None) -> Report:
    """The report on an installation, after at most `budget_s` seconds (HEALTH_SECONDS). `sources`: only these products."""
    settings = installation.settings
    return examine(checks(installation, sources), budget_s or settings.health_s, settings.redacted)


def checks(installation: Installation, sources: Sequence[str] = ()) -> list[Check]:
    """Everything to look at, in the order in which it is told."""
    settings = installation.settings
    found = [Check("settings", lambda: _on_paper(installation))]
    for destination in settings.destinations:
        if destination.endpoint and destination.rule_ids:
            found += _of_destination(installation, destination)
    if settings.dcr_resource_ids or settings.workspace_resource_id:
        places = Places(settings.dcr_resource_ids, settings.workspace_resource_id)
        # The settings name the rules of one destination.
        (first, *_) = settings.destinations or (None,)
        if first is not None:
            found.append(Check("columns", lambda: contract_findings(first, places, installation.management())))
    if settings.staging_account_url or settings.staging_connection_string:
        found.append(Check("storage", lambda: _storage(installation)))
    return found + [_of_product(installation, name) for name in configured(settings) if not sources or name in sources]


def _on_paper(installation: Installation) -> Iterator[Finding]:
    yield from settings_findings(installation.settings, installation.problems, installation.environment)
    yield from schedule_findings(installation.settings)
    yield from transport_findings(installation.environment)
    yield from task_hub_findings(installation.host, installation.environment)
    yield from kernel_findings(installation.environment)


def _storage(installation: Installation) -> Iterator[Finding]:
    try:
        container = installation.container()
    except ValueError as error:
        # Of azure-storage-blob, about an address or a connection string that it cannot use.
        yield wrong("storage.reach", "staging", str(error))
        return
    with container:
        yield from storage_findings(container, installation.now)


def _of_destination(installation: Installation, destination: DestinationSettings) -> list[Check]:
    def token() -> Iterator[Finding]:
        credential = installation.credential(destination)
        yield from token_findings(destination, credential, installation.settings.tenant_id, installation.now())

    def post() -> Iterator[Finding]:
        with installation.doors(destination) as doors:
            yield from ingestion_findings(destination, doors, installation.now)

    return [Check(f"token for {destination.name}", token), Check(f"ingestion to {destination.name}", post)]


def _of_product(installation: Installation, name: str) -> Check:
    settings = installation.settings
    source = settings.sources[name]

    def look() -> Iterator[Finding]:
        yield from product_findings(
            SOURCES[name], source.url, source.secrets, settings.source_timeout_s, installation.now
        )

    return Check(name, look)
