"""An installation on emulators with canaries for secrets, whole until a test breaks it, examined as function_app composes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from azure.core.credentials import TokenCredential
from azure.identity import ManagedIdentityCredential
from azure.monitor.ingestion import LogsIngestionClient
from azure.storage.blob import ContainerClient

import function_app
import native
from doctor.findings import Finding, Report
from doctor.rounds import Installation, examination
from local.azurite import Azurite
from local.products.simulator import Keys, Simulator
from local.products.synthetic import Inventory
from local.sentinel.answers import DEFAULT_DCR
from local.sentinel.identity import HEADER
from local.sentinel.process import Server
from local.sentinel.resources import WORKSPACE, rule_id
from sentinel.ingestion import Door, LogsIngestionSink, policies
from settings import DestinationSettings

INVENTORY = Inventory(assets=5, findings=5, big_output_share=0.0)

CANARIES = {
    "CYCOGNITO_API_KEY": "canary-cycognito-key-3f9c",
    "DEVICE42_USERNAME": "canary-device42-user-77aa",
    "DEVICE42_PASSWORD": "canary-device42-password-b1d2",
    "TENABLE_ACCESS_KEY": "canary-tenable-access-0e5b",
    "TENABLE_SECRET_KEY": "canary-tenable-secret-c8d4",
}


@dataclasses.dataclass
class Ward:
    """The parts of an installation, which a test may break, and its examination."""

    environment: dict[str, str]
    simulator: Simulator
    emulator: Server
    stack: ExitStack
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)

    def credential(self, _: DestinationSettings) -> TokenCredential:
        return self.stack.enter_context(ManagedIdentityCredential())

    @contextmanager
    def doors(self, destination: DestinationSettings) -> Iterator[list[Door]]:
        """As function_app builds them, with the managed identity, which the app does not use for an emulator."""
        identity = self.credential(destination)
        does = policies(identity, f"{destination.audience}/.default")
        with LogsIngestionClient(destination.endpoint, identity, policies=does) as client:
            sinks = [
                LogsIngestionSink(client, rule, enforce_https=False, timeout_s=5.0) for rule in destination.rule_ids
            ]
            yield [Door(sink) for sink in sinks]

    def installation(self) -> Installation:
        changes = {"credential": self.credential, "doors": self.doors, **self.changes}
        return dataclasses.replace(function_app.installation(self.environment), **changes)

    def examine(self, *sources: str) -> Report:
        return examination(self.installation(), sources)

    def troubles(self, *sources: str) -> list[Finding]:
        """What is not ok."""
        return [finding for finding in self.examine(*sources).findings if finding.severity != "ok"]


@pytest.fixture
def ward(
    azurite: Azurite,
    container: ContainerClient,
    emulator: Server,
    simulate: Callable[[Simulator], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Ward]:
    """A whole installation; the emulator's identity and deployment are as they were afterwards."""
    keys = Keys(*(CANARIES[name] for name in CANARIES))
    simulator = Simulator(dict(INVENTORY.streams()), keys)
    url = simulate(simulator)
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{emulator.url}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", HEADER)
    environment = {
        **CANARIES,
        **{f"{name}_URL": url for name in ("CYCOGNITO", "DEVICE42", "TENABLE")},
        "STAGING_CONNECTION_STRING": azurite.connection_string,
        "STAGING_CONTAINER": container.container_name,
        "INGESTION_ENDPOINT": emulator.url,
        "DCR_IMMUTABLE_ID": DEFAULT_DCR,
        "FULL_SCHEDULE": "0 0 2 * * 6",
        "DELTA_SCHEDULE": "0 0 */4 * * *",
        "SCHEDULED_SOURCES": "tenable",
        "DCR_RESOURCE_ID": rule_id(DEFAULT_DCR),
        "WORKSPACE_RESOURCE_ID": WORKSPACE,
        "MANAGEMENT_ENDPOINT": emulator.url,
        # A machine without a compiler has none, and that is no trouble of the installation's.
        **({} if native.kernel() else {native.SWITCH: "off"}),
    }
    with ExitStack() as stack:
        yield Ward(environment, simulator, emulator, stack)
    emulator.control("identity", {})
    emulator.control("drift", {})
