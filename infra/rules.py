"""What an evaluated deployment has to agree with beside the resource types: the code's settings, the table contract, the roles that the code needs, host.json.

Invariant: each rule gives every breach in words, so that a combination of parameters is right when all of them give none. Whatever the code, the contract
or the roles' list declares is read there and not repeated here; only the roles that each resource needs are said here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from infra.check import ROOT, Deployment, Resource
from infra.package import SCHEDULER_CONNECTION, host_json
from sentinel.tables import STREAMS, TABLES
from settings import SettingsError, read_settings
from sources.registry import SOURCES

PLATFORM_SETTINGS: Final = frozenset(
    {
        "APPLICATIONINSIGHTS_AUTHENTICATION_STRING",
        "APPLICATIONINSIGHTS_CONNECTION_STRING",
        "AzureWebJobsStorage__blobServiceUri",
        "AzureWebJobsStorage__clientId",
        "AzureWebJobsStorage__credential",
        "AzureWebJobsStorage__queueServiceUri",
        "AzureWebJobsStorage__tableServiceUri",
        "GLIBC_TUNABLES",
    }
)
"""Settings that the Functions host reads, or the C library (memory.py)."""

NEVER: Final = frozenset(
    {
        "AzureWebJobsStorage",
        "ENABLE_ORYX_BUILD",
        "FUNCTIONS_EXTENSION_VERSION",
        "FUNCTIONS_WORKER_RUNTIME",
        "SCM_DO_BUILD_DURING_DEPLOYMENT",
        "STAGING_CONNECTION_STRING",
        "WEBSITE_CONTENTAZUREFILECONNECTIONSTRING",
        "WEBSITE_CONTENTSHARE",
        "WEBSITE_RUN_FROM_PACKAGE",
    }
)
"""What Flex Consumption refuses, and what would carry a key."""

_TRIGGER_SETTING: Final = re.compile(r'schedule="%(\w+)%"')

_SECRET: Final = re.compile(
    r"AccountKey=|SharedAccessKey=|[?&]sig=|[?&]code=|-----BEGIN|\beyJ[\w-]{10,}\.|(password|api_?key|secret_?key)['\"]?\s*[:=]\s*['\"]\w{8,}",
    re.IGNORECASE,
)


def problems(deployment: Deployment) -> list[str]:
    """Every breach of every rule."""
    rules = (settings_problems, stream_problems, role_problems, provider_problems, exposure_problems, secret_problems)
    return [problem for rule in rules for problem in rule(deployment)]


class _Recorded(Mapping[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def settings_read() -> set[str]:
    """Every setting that the code reads: those of settings.py, and those that triggers name."""
    environment = _Recorded()
    with suppress(SettingsError):  # that an empty environment lacks settings is no news here
        read_settings(environment)
    return environment.asked | set(_TRIGGER_SETTING.findall((ROOT / "function_app.py").read_text(encoding="utf-8")))


def app_settings(deployment: Deployment) -> dict[str, Any]:
    """The app settings of a deployment."""
    (config,) = deployment.of_type("Microsoft.Web/sites/config")
    return config.properties


def settings_problems(deployment: Deployment) -> list[str]:
    """Settings that the code reads and needs = settings that are set."""
    given = app_settings(deployment)
    read = settings_read()
    found = [
        f"app setting {name}: nothing reads it"
        for name in sorted(set(given) - read - PLATFORM_SETTINGS - {SCHEDULER_CONNECTION})
    ]
    found += [f"app setting {name}: never in Azure" for name in sorted(set(given) & NEVER)]
    found += [f"app setting {name} is missing" for name in sorted(PLATFORM_SETTINGS - set(given))]
    triggers = _TRIGGER_SETTING.findall((ROOT / "function_app.py").read_text(encoding="utf-8"))
    found += [f"app setting {name} is missing: a trigger names it" for name in triggers if not given.get(name)]
    if "AZURE_CLIENT_ID" not in given:
        found.append("app setting AZURE_CLIENT_ID is missing: the identity is user-assigned")
    # Values that are known only after a deployment stand in as the platform would give them.
    environment = {name: _stand_in(name, str(value)) for name, value in given.items()}
    try:
        settings = read_settings(environment)
    except SettingsError as error:
        return [*found, *(f"the code refuses the settings: {problem}" for problem in error.remedy.split("; "))]
    loaded = {name for name in SOURCES if any(setting.startswith(f"{name.upper()}_") for setting in given)}
    found += [f"{name} lacks {', '.join(settings.sources[name].missing)}" for name in sorted(loaded) if settings.sources[name].missing]  # fmt: skip
    return found


def _stand_in(name: str, value: str) -> str:
    if "@Microsoft.KeyVault(" in value:
        return "resolved"
    if "«" not in value:
        return value
    return "https://known.example.com" if name.endswith(("_URL", "_ENDPOINT")) else "known"


def stream_problems(deployment: Deployment) -> list[str]:
    """Tables and streams = the contract, in every rule; each flow ends in a table that is made, and its rule's one destination."""
    tables = {
        table.body["name"]: table for table in deployment.of_type("Microsoft.OperationalInsights/workspaces/tables")
    }
    found = _difference("table", set(tables), {table.name for table in TABLES})
    for table in TABLES:
        if table.name in tables:
            made = {c["name"]: c["type"].lower() for c in tables[table.name].properties["schema"]["columns"]}
            found += _columns(table.name, made, {column.name: column.type for column in table.columns})
    declared = {owner.stream: owner for owner in TABLES} | {stream.name: stream for stream in STREAMS}
    goes_to = {table.stream: table.name for table in TABLES} | {stream.name: stream.table for stream in STREAMS}
    rules = deployment.of_type("Microsoft.Insights/dataCollectionRules")
    if not rules:
        found.append("no data collection rule")
    for rule in rules:
        streams = rule.properties["streamDeclarations"]
        found += _difference("stream", set(streams), set(declared))
        for name in set(streams) & set(declared):
            made = {column["name"]: column["type"] for column in streams[name]["columns"]}
            found += _columns(name, made, {column.name: column.type for column in declared[name].columns})
        destinations = [one["name"] for one in rule.properties["destinations"]["logAnalytics"]]
        flows = {stream: flow for flow in rule.properties["dataFlows"] for stream in flow["streams"]}
        found += _difference("flow of", set(flows), set(declared))
        for name in set(flows) & set(declared):
            if flows[name]["outputStream"] != f"Custom-{goes_to[name]}":
                found.append(f"{name} goes to {flows[name]['outputStream']}, not to {goes_to[name]}")
            if flows[name]["destinations"] != destinations:
                found.append(f"{name} has the destinations {flows[name]['destinations']}, the rule {destinations}")
    return found


def _difference(what: str, made: set[str], wanted: set[str]) -> list[str]:
    return [f"{what} {name}: in the contract, not in the templates" for name in sorted(wanted - made)] + [
        f"{what} {name}: in the templates, not in the contract" for name in sorted(made - wanted)
    ]


def _columns(owner: str, made: dict[str, str], wanted: dict[str, str]) -> list[str]:
    found = _difference(f"column {owner}:", set(made), set(wanted))
    return found + [
        f"{owner}.{name} is {made[name]}, the contract says {wanted[name]}"
        for name in wanted
        if name in made and made[name] != wanted[name]
    ]


def roles_given(deployment: Deployment) -> set[tuple[str, str, str]]:
    """Role, the scope's symbol in its file, and the file, of every assignment."""
    names = {role["id"]: role["name"] for role in _roles().values()}
    found = set()
    for assignment in deployment.of_type("Microsoft.Authorization/roleAssignments"):
        role = str(assignment.properties["roleDefinitionId"]).rsplit("/", 1)[-1]
        scope = str(assignment.body.get("scope", "")).removeprefix("«resource ").removesuffix("»")
        found.add((names.get(role, role), scope, _file(assignment)))
    return found


def _file(resource: Resource) -> str:
    return resource.file.rsplit("/", 1)[-1]


def _roles() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((ROOT / "infra" / "roles.json").read_text(encoding="utf-8"))
    return found


def role_problems(deployment: Deployment) -> list[str]:
    """Roles that are given = roles that are needed, each on the narrowest scope that has what is needed."""
    scheduler = bool(deployment.of_type("Microsoft.DurableTask/schedulers"))
    direct = any(
        rule.body.get("kind") == "Direct" for rule in deployment.of_type("Microsoft.Insights/dataCollectionRules")
    )
    needed = {
        ("Storage Blob Data Owner", "host", "storage.bicep"),  # the host's package, locks and keys
        ("Storage Blob Data Contributor", "staging", "storage.bicep"),
        ("Monitoring Metrics Publisher", "directRule" if direct else "rules", "ingestion.bicep"),
        ("Monitoring Metrics Publisher", "insights", "function.bicep"),
        ("Key Vault Secrets User", "vault", "vault.bicep"),
    }
    if scheduler:
        needed.add(("Durable Task Data Contributor", "hub", "scheduler.bicep"))
    else:
        needed.add(("Storage Queue Data Contributor", "host", "storage.bicep"))
        needed.add(("Storage Table Data Contributor", "host", "storage.bicep"))
    workflows = {_file(workflow) for workflow in deployment.of_type("Microsoft.Logic/workflows")}
    if "playbooks.bicep" in workflows:
        needed.add(("Microsoft Sentinel Responder", "workspace", "workspacerole.bicep"))
    if "refresh.bicep" in workflows:
        needed.add(("Microsoft Sentinel Contributor", "workspace", "workspacerole.bicep"))
    person = {
        ("Storage Blob Data Reader", "staging", "storage.bicep"),
        ("Key Vault Secrets Officer", "vault", "vault.bicep"),
    }
    given = roles_given(deployment)
    assignments = deployment.of_type("Microsoft.Authorization/roleAssignments")
    publishers = sum(_file(one) == "ingestion.bicep" for one in assignments)
    readers = sum("4633458b" in str(one.properties["roleDefinitionId"]) for one in assignments)
    vaults = len(deployment.of_type("Microsoft.KeyVault/vaults"))
    found = [f"role missing: {role} on {scope} ({file})" for role, scope, file in sorted(needed - given)]
    found += [f"role not needed: {role} on {scope} ({file})" for role, scope, file in sorted(given - needed - person)]
    found += [
        f"a role assignment in {_file(one)} does not say whose kind of principal it is"
        for one in assignments
        if not one.properties.get("principalType")
    ]
    if publishers != len(deployment.of_type("Microsoft.Insights/dataCollectionRules")):
        found.append(f"{publishers} of the data collection rules can be written to")
    acting = sum(_file(one) == "workspacerole.bicep" for one in assignments)
    if acting != len(deployment.of_type("Microsoft.Logic/workflows")):
        found.append(f"{acting} of the playbooks may act in the workspace")
    # Each vault has one reader, but the playbooks' has two: one for the ticket system's address, one for the function key.
    if readers != vaults + ("playbooks.bicep" in workflows):
        found.append(f"{readers} readers of secrets for {vaults} vaults")
    return found


def provider_problems(deployment: Deployment) -> list[str]:
    """host.json as it is packaged for the provider fits what is deployed."""
    host = json.loads((ROOT / "host.json").read_text(encoding="utf-8"))
    hubs = [hub.body["name"] for hub in deployment.of_type("Microsoft.DurableTask/schedulers/taskHubs")]
    task = host_json(host, "scheduler" if hubs else "storage")["extensions"]["durableTask"]
    given = app_settings(deployment)
    connection = task["storageProvider"].get("connectionStringName", "AzureWebJobsStorage__blobServiceUri")
    found = [] if connection in given else [f"host.json names the connection {connection}, which is no app setting"]
    if hubs and hubs != [task["hubName"]]:
        found.append(f"host.json names the task hub {task['hubName']}, the template makes {hubs}")
    if not hubs and SCHEDULER_CONNECTION in given:
        found.append("a connection to a scheduler that is not there")
    return found


_ALWAYS: Final[dict[str, dict[str, Any]]] = {
    "Microsoft.Storage/storageAccounts": {
        "allowBlobPublicAccess": False,
        "allowSharedKeyAccess": False,
        "supportsHttpsTrafficOnly": True,
        "minimumTlsVersion": "TLS1_2",
    },
    "Microsoft.Storage/storageAccounts/blobServices/containers": {"publicAccess": "None"},
    "Microsoft.KeyVault/vaults": {"enableRbacAuthorization": True, "enablePurgeProtection": True},
    "Microsoft.Insights/components": {"DisableLocalAuth": True},
    "Microsoft.Web/sites": {"httpsOnly": True},
}

_CLOSABLE: Final = {"Microsoft.Storage/storageAccounts", "Microsoft.KeyVault/vaults"}

_CLOSED: Final[dict[str, Any]] = {
    "publicNetworkAccess": "Disabled",
    "networkAcls": {"bypass": "None", "defaultAction": "Deny"},
}


def exposure_problems(deployment: Deployment) -> list[str]:
    """No shared key, no anonymous access, no basic authentication; with private endpoints, no public door beside them."""
    private = bool(deployment.of_type("Microsoft.Network/virtualNetworks"))
    closed = _CLOSED if private else {}
    found = []
    for kind, wanted in _ALWAYS.items():
        for resource in deployment.of_type(kind):
            # The vaults of the Data Factory and of the playbooks are read from outside of the virtual network.
            outside = any(name in str(resource.body["name"]) for name in ("kv-adf-", "kv-play-"))
            found += _unlike(resource, wanted | (closed if kind in _CLOSABLE and not outside else {}))
    for workspace in deployment.of_type("Microsoft.OperationalInsights/workspaces"):
        if workspace.properties["features"].get("disableLocalAuth") is not True:
            found.append("a workspace takes its shared keys")
    policies = deployment.of_type("Microsoft.Web/sites/basicPublishingCredentialsPolicies")
    if {policy.body["name"]: policy.properties["allow"] for policy in policies} != {"scm": False, "ftp": False}:
        found.append("the app can be deployed with a password")
    linked = deployment.of_type("Microsoft.Insights/privateLinkScopes")
    for endpoint in deployment.of_type("Microsoft.Insights/dataCollectionEndpoints"):
        if linked and endpoint.properties["networkAcls"]["publicNetworkAccess"] != "Disabled":
            found.append("the ingestion endpoint is public beside its private link")
    return found + [problem for site in deployment.of_type("Microsoft.Web/sites") for problem in _site(site, private)]


def _site(site: Resource, private: bool) -> list[str]:
    found = []
    if site.properties["siteConfig"].get("ftpsState") != "Disabled":
        found.append("the app takes FTP")
    if site.body["identity"]["type"] != "UserAssigned":
        found.append("the app has another identity than the user-assigned one")
    if private and not site.properties["virtualNetworkSubnetId"]:
        found.append("the app is outside of the virtual network")
    return found


def _unlike(resource: Resource, wanted: dict[str, Any]) -> list[str]:
    return [
        f"{resource.type}: {name} is {resource.properties.get(name)!r}, not {value!r}"
        for name, value in wanted.items()
        if resource.properties.get(name) != value
    ]


def secret_problems(deployment: Deployment) -> list[str]:
    """No text of a deployment looks like a key; a product's secrets are references to the vault."""
    found = [
        f"{resource.type} in {_file(resource)} holds what looks like a secret"
        for resource in deployment.resources
        if _SECRET.search(json.dumps(resource.body, default=str))
    ]
    secrets = {f"{name}_{secret}".upper() for name, source in SOURCES.items() for secret in source.secrets}
    found += [
        f"app setting {name} is no reference to the vault"
        for name, value in app_settings(deployment).items()
        if name in secrets and "@Microsoft.KeyVault(" not in str(value)
    ]
    return found
