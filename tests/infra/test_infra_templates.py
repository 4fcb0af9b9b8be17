"""The templates with every parameter file: no finding of the checker, no breach of a rule; and a mistake in them is found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.check import ROOT, Deployment, combinations, evaluate, read_parameters
from infra.products import PAGE, products
from infra.rules import app_settings, problems, roles_given, settings_read
from local.watchlist import ALIAS, SEARCH_KEY
from sentinel.content import functions
from sentinel.content.detections import hunting, rules
from sentinel.reference.playbooks import PLAYBOOKS
from sentinel.reference.workbook import workbook
from sources.registry import SOURCES

Evaluated = Callable[[str], Deployment]


@pytest.mark.parametrize("name", combinations())
def test_a_combination_has_no_finding(deployment: Evaluated, name: str) -> None:
    """Neither structure nor agreement with the code, the contract, host.json and the roles."""
    made = deployment(name)
    assert made.resources
    assert made.findings + problems(made) == []


def test_every_template_is_used_by_some_combination(deployment: Evaluated) -> None:
    """A module that nothing deploys is checked by nothing."""
    used = {(ROOT / one.file).resolve() for name in combinations() for one in deployment(name).resources}
    assert set((ROOT / "infra").rglob("*.bicep")) == used


def test_every_parameter_value_that_changes_the_resources_is_in_a_combination() -> None:
    """Booleans both ways, and every allowed value, over all parameter files and the defaults."""
    text = (ROOT / "infra" / "main.bicep").read_text()
    given: dict[str, set[Any]] = {}
    for path in combinations().values():
        for name, entry in json.loads(path.read_text())["parameters"].items():
            given.setdefault(name, set()).add(str(entry["value"]))
    missing = []
    for allowed, name, kind, default in re.findall(
        r"(?:@allowed\(\[ (.+?) \]\)\n)?(?:@[^\n]*\n)*param (\w+) (\w+)(?: = ([^\n]+))?", text
    ):
        values = {"true", "false"} if kind == "bool" else set(re.findall(r"[\w.]+", allowed))
        seen = {value.lower() for value in given.get(name, set())} | {default.strip("'").lower()}
        if default.startswith("empty("):
            seen |= {"true"}
        wanted = {value.lower() for value in values}
        if name in ("pythonVersion", "instanceMemoryMB", "staleAfterHours", "principalType"):
            continue  # the resources are the same
        missing += [f"{name}={value}" for value in sorted(wanted - seen)]
    assert missing == []


def test_the_products_are_those_of_the_registry() -> None:
    """infra/products.json is generated."""
    assert PAGE.read_text(encoding="utf-8") == products(), "run `make generate`"


def test_a_product_s_secrets_become_references(deployment: Evaluated) -> None:
    """Each secret of each configured product, and nothing of the others."""
    given = app_settings(deployment("everything"))
    for name, source in SOURCES.items():
        for secret in source.secrets:
            stored = f"{name}-{secret}".replace("_", "-")
            assert re.search(rf"SecretName={stored}\)", given[f"{name}_{secret}".upper()])
    assert "CYCOGNITO_API_KEY" not in app_settings(deployment("minimal"))


def test_the_settings_that_are_read_are_found() -> None:
    """Both the reader's and the triggers', so that the rule compares with something."""
    assert {
        "STAGING_ACCOUNT_URL",
        "DCR_IMMUTABLE_ID",
        "LANES",
        "TENABLE_SECRET_KEY",
        "FULL_SCHEDULE",
    } <= settings_read()


def test_several_rules_are_one_setting(deployment: Evaluated) -> None:
    """Their ids as one comma-separated value, each rule writable."""
    made = deployment("several-rules")
    assert len(made.of_type("Microsoft.Insights/dataCollectionRules")) == 3
    assert len(made.of_type("Microsoft.Insights/diagnosticSettings")) == 3
    assert len(made.of_type("Microsoft.Insights/dataCollectionEndpoints")) == 1


def test_a_direct_rule_needs_no_endpoint(deployment: Evaluated) -> None:
    """One resource less, of the kind that has its own endpoint."""
    made = deployment("direct-rule")
    (rule,) = made.of_type("Microsoft.Insights/dataCollectionRules")
    assert rule.body["kind"] == "Direct"
    assert "dataCollectionEndpointId" not in rule.properties
    assert made.of_type("Microsoft.Insights/dataCollectionEndpoints") == []


def test_an_existing_workspace_is_left_as_it_is(deployment: Evaluated) -> None:
    """Neither made nor onboarded; what must be beside it is in its region."""
    made = deployment("existing-workspace")
    assert made.of_type("Microsoft.OperationalInsights/workspaces") == []
    assert made.of_type("Microsoft.SecurityInsights/onboardingStates") == []
    beside = ("dataCollectionEndpoints", "dataCollectionRules", "scheduledQueryRules")
    assert {one.body["location"] for kind in beside for one in made.of_type(f"Microsoft.Insights/{kind}")} == {
        "northeurope"
    }
    assert {one.body["location"] for one in made.of_type("Microsoft.Web/sites")} == {"westeurope"}


def test_the_app_is_what_azd_deploys_to(deployment: Evaluated) -> None:
    """The tag names the service of azure.yaml."""
    services = re.findall(r"^  (\w+):\n    project:", (ROOT / "azure.yaml").read_text(), re.MULTILINE)
    (site,) = deployment("azd").of_type("Microsoft.Web/sites")
    assert [site.body["tags"]["azd-service-name"]] == services


def test_functions_are_saved_whole(deployment: Evaluated) -> None:
    """Names and parameters as the files declare them."""
    searches = deployment("minimal").of_type("Microsoft.OperationalInsights/workspaces/savedSearches")
    saved = [one for one in searches if one.properties["category"] == "CAASM"]
    given = {one.properties["functionAlias"]: one.properties["functionParameters"] for one in saved}
    declared = {function.name: function for function in functions()}
    assert given == {name: function.parameters for name, function in declared.items()}
    assert all(declared[one.body["name"]].body.strip() in one.properties["query"] for one in saved)


def test_rules_and_hunting_queries_are_made_of_the_content(deployment: Evaluated) -> None:
    """Each once, under its GUID, enabled unless it is said otherwise; none where they are not wanted."""
    made = deployment("everything")
    enabled = {
        one.body["name"]: one.properties["enabled"] for one in made.of_type("Microsoft.SecurityInsights/alertRules")
    }
    off = {"CriticalAssetVanished", "InventoryStaleOrIncomplete"}
    assert enabled == {rule.document["id"]: rule.file not in off for rule in rules()}
    searches = made.of_type("Microsoft.OperationalInsights/workspaces/savedSearches")
    queries = {one.body["name"]: one for one in searches if one.properties["category"] == "Hunting Queries"}
    assert set(queries) == {query.document["id"] for query in hunting()}
    assert all(queries[query.document["id"]].properties["query"] == query.query for query in hunting())
    without = deployment("no-extras")
    assert without.of_type("Microsoft.SecurityInsights/alertRules") == []
    assert without.of_type("Microsoft.OperationalInsights/workspaces/savedSearches") == []


def test_playbooks_are_deployed_whole(deployment: Evaluated) -> None:
    """Each definition gets exactly the parameters that it declares; identities only, the connection's too; each may act in the workspace."""
    made = deployment("everything")
    workflows = {one.body["name"]: one for one in made.of_type("Microsoft.Logic/workflows")}
    assert set(workflows) == set(PLAYBOOKS)
    for name, workflow in workflows.items():
        definition = PLAYBOOKS[name]()
        assert workflow.properties["definition"]["actions"] == definition["actions"]
        assert set(workflow.properties["parameters"]) == set(definition["parameters"])
        assert workflow.body["identity"] == {"type": "SystemAssigned"}
        for connection in workflow.properties["parameters"].get("$connections", {"value": {}})["value"].values():
            assert connection["connectionProperties"] == {"authentication": {"type": "ManagedServiceIdentity"}}
    (connection,) = made.of_type("Microsoft.Web/connections")
    assert connection.properties["parameterValueType"] == "Alternative"
    assert {one.body["name"] for one in deployment("watchlist").of_type("Microsoft.Logic/workflows")} == {
        "CAASM-RefreshWatchlist"
    }
    assert set(PLAYBOOKS) - {
        one.body["name"] for one in deployment("playbooks").of_type("Microsoft.Logic/workflows")
    } == {"CAASM-RefreshWatchlist"}
    assert deployment("minimal").of_type("Microsoft.Logic/workflows") == []


def test_the_watchlist_is_that_of_the_function(deployment: Evaluated) -> None:
    """Its name and key are those that the file, the refresh and rules use; it is made without items, so that a deployment leaves them alone."""
    (watchlist,) = deployment("watchlist").of_type("Microsoft.SecurityInsights/watchlists")
    assert (watchlist.body["name"], watchlist.properties["itemsSearchKey"]) == (ALIAS, SEARCH_KEY)
    assert "rawContent" not in watchlist.properties
    assert ALIAS in {function.name for function in functions()}


def test_the_workbook_is_deployed_as_it_is_generated(deployment: Evaluated) -> None:
    """Beside its workspace; not where it is not wanted."""
    (book,) = deployment("existing-workspace").of_type("Microsoft.Insights/workbooks")
    assert book.properties["serializedData"] == workbook()
    assert book.body["location"] == "northeurope"
    assert deployment("no-extras").of_type("Microsoft.Insights/workbooks") == []


def test_staged_data_is_deleted_and_state_is_kept(deployment: Evaluated) -> None:
    """The watermark is under no rule; the index outlives the data that it was made of."""
    (policy,) = deployment("azd").of_type("Microsoft.Storage/storageAccounts/managementPolicies")
    kept = {
        rule["definition"]["filters"]["prefixMatch"][0]: rule["definition"]["actions"]["baseBlob"]["delete"]["daysAfterModificationGreaterThan"]
        for rule in policy.properties["policy"]["rules"]
    }  # fmt: skip
    assert set(kept) == {"caasm/runs/", "caasm/index/", "caasm/manifests/"}
    assert kept["caasm/runs/"] < kept["caasm/index/"] < kept["caasm/manifests/"]


def test_roles_are_given_to_nobody_by_default(deployment: Evaluated) -> None:
    """Without a principal only the app's identity has roles; with one, a person may write secrets and read staged data."""
    people = {
        ("Storage Blob Data Reader", "staging", "storage.bicep"),
        ("Key Vault Secrets Officer", "vault", "vault.bicep"),
    }
    assert not people & roles_given(deployment("minimal"))
    assert people <= roles_given(deployment("everything"))


SEEDS = {
    "misspelled property": ("minimal", "modules/storage.bicep", "allowSharedKeyAccess:", "allowSharedKeyAcces:", "did you mean"),
    "misspelled output": ("minimal", "resources.bicep", "storage.outputs.dataAccountName", "storage.outputs.dataAcountName", "BCP053"),
    "wrong type": ("minimal", "modules/ingestion.bicep", "streams: flow.streams", "streams: flow.outputStream", "expected array"),
    "unknown apiVersion": ("minimal", "modules/vault.bicep", "vaults@2024-11-01", "vaults@2029-01-01", "BCP081"),
    "missing required": ("minimal", "modules/alerts.bicep", "  location: location\n  tags: tags\n  kind: 'LogAlert'", "  tags: tags\n  kind: 'LogAlert'", "BCP035"),
    "missing role on the DCR": ("several-rules", "modules/ingestion.bicep", "for i in range(0, direct ? 0 : count): {\n  name: guid", "for i in range(0, 1): {\n  name: guid", "1 of the data collection rules"),
    "missing role on storage": ("minimal", "modules/storage.bicep", "  roles.storageTableDataContributor.id\n", "", "role missing: Storage Table Data Contributor"),
    "role of the wrong kind": ("minimal", "roles.json", "b7e6dc6d-f1e8-4753-8033-0f276bb0955b", "17d1049b-9a84-46fb-8f53-869881c3d3ab", "role missing: Storage Blob Data Owner"),
    "role on too wide a scope": ("minimal", "modules/storage.bicep", "  scope: staging\n", "  scope: data\n", "role not needed: Storage Blob Data Contributor on data"),
    "role for a provider that is not used": ("scheduler", "resources.bicep", "durableState: !useScheduler", "durableState: useScheduler", "role not needed: Storage Queue"),
    "stream that the contract has not": ("minimal", "generated/streams.json", '"Custom-CAASM_Assets":', '"Custom-CAASM_Asset":', "stream Custom-CAASM_Asset: in the templates"),
    "column of another type": ("minimal", "generated/streams.json", '"type": "boolean"', '"type": "string"', "the contract says boolean"),
    "column that the table has not": ("minimal", "generated/tables.json", '"name": "AssetName"', '"name": "AssetNames"', "column CAASM_Assets_CL: AssetNames"),
    "flow to another table": ("minimal", "generated/dataflows.json", "Custom-CAASM_Assets_CL", "Custom-CAASM_Findings_CL", "goes to Custom-CAASM_Findings_CL"),
    "setting that nothing reads": ("minimal", "modules/function.bicep", "  STAGING_CONTAINER:", "  STAGING_CONTAINER_NAME:", "STAGING_CONTAINER_NAME: nothing reads it"),
    "setting that is missing": ("minimal", "modules/function.bicep", "  DCR_IMMUTABLE_ID: dcrImmutableId\n", "", "DCR_IMMUTABLE_ID is missing"),
    "schedule that is missing": ("minimal", "modules/function.bicep", "  DELTA_SCHEDULE: deltaSchedule\n", "", "DELTA_SCHEDULE is missing"),
    "setting that Flex refuses": ("minimal", "modules/function.bicep", "  STAGING_CONTAINER:", "  FUNCTIONS_WORKER_RUNTIME: 'python'\n  STAGING_CONTAINER:", "never in Azure"),
    "secret that is lacking": ("minimal", "products.json", '"secret_key"', '"secret"', "which needs TENABLE_SECRET_KEY"),
    "secret as it is": ("minimal", "modules/function.bicep", "'@Microsoft.KeyVault(VaultName=${vaultName};SecretName=${replace(name, '_', '-')})'", "'${vaultName}-5f2c'", "no reference to the vault"),
    "key in a setting": ("minimal", "modules/function.bicep", "AZURE_CLIENT_ID: identityClientId", "AZURE_CLIENT_ID: 'AccountKey=c2VjcmV0c2VjcmV0'", "secret"),
    "another task hub": ("scheduler", "modules/scheduler.bicep", "name: hubName", "name: '${hubName}2'", "task hub"),
    "no connection to the scheduler": ("scheduler", "modules/function.bicep", "  DURABLE_TASK_SCHEDULER_CONNECTION_STRING:", "  TASK_SCHEDULER:", "names the connection"),
    "shared keys": ("minimal", "modules/storage.bicep", "allowSharedKeyAccess: false", "allowSharedKeyAccess: true", "allowSharedKeyAccess is True"),
    "public storage beside its endpoint": ("isolated", "modules/storage.bicep", "publicAccess ? 'Enabled' : 'Disabled'", "'Enabled'", "publicNetworkAccess is 'Enabled'"),
    "public vault beside its endpoint": ("isolated", "resources.bicep", "name: 'kv-${token}'\n    location: location\n    tags: tags\n    publicAccess: !networkIsolation", "name: 'kv-${token}'\n    location: location\n    tags: tags\n    publicAccess: true", "KeyVault/vaults: publicNetworkAccess"),
    "app outside of its network": ("isolated", "modules/function.bicep", "empty(subnetId) ? null : subnetId", "null", "outside of the virtual network"),
    "public ingestion beside its private link": ("private", "modules/ingestion.bicep", "publicAccess ? 'Enabled' : 'Disabled'", "'Enabled'", "ingestion endpoint is public"),
    "anonymous blobs": ("minimal", "modules/storage.bicep", "properties: { publicAccess: 'None' }", "properties: { publicAccess: 'Blob' }", "publicAccess is 'Blob'"),
    "deployment with a password": ("minimal", "modules/function.bicep", "properties: { allow: false }", "properties: { allow: true }", "with a password"),
    "playbook that may not act": ("playbooks", "resources.bicep", "module ticketRole 'modules/workspacerole.bicep' = if (deployContent && deployPlaybooks)", "module ticketRole 'modules/workspacerole.bicep' = if (deployContent && deployWatchlist)", "2 of the playbooks may act"),
    "playbook with more than it needs": ("playbooks", "resources.bicep", "loadPrincipalId\n    role: 'sentinelResponder'", "loadPrincipalId\n    role: 'sentinelContributor'", "role not needed: Microsoft Sentinel Contributor"),
    "playbook without its secret": ("playbooks", "modules/playbooks.bicep", "    secondReaderPrincipalId: loadDelta.identity.principalId\n", "", "readers of secrets"),
    "watchlist without a key": ("watchlist", "modules/watchlist.bicep", "    itemsSearchKey: 'AssetId'\n", "", "BCP035"),
    "connection of another kind": ("playbooks", "modules/playbooks.bicep", "parameterValueType: 'Alternative'", "parameterValueType: 'Key'", "parameterValueType"),
    "telemetry with a key": ("minimal", "modules/function.bicep", "DisableLocalAuth: true", "DisableLocalAuth: false", "DisableLocalAuth is False"),
}  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mistake_is_found(copy: Callable[..., Deployment], seed: str) -> None:
    """One edit of a copy, and the checks name what it broke."""
    name, file, old, new, words = SEEDS[seed]
    made = copy(name, file, old, new)
    assert words in "\n".join(made.findings + problems(made))


def test_an_unedited_copy_has_no_finding(copy: Callable[..., Deployment]) -> None:
    """So that what the seeds find is the seeds'."""
    made = copy("everything", "main.bicep", "targetScope", "targetScope")
    assert made.findings + problems(made) == []


def test_what_a_condition_leaves_out_is_not_counted(checker: None) -> None:
    """A module under a false condition makes nothing, also when it is met while another one's parameters are evaluated."""
    parameters = read_parameters(combinations()["isolated"])
    assert evaluate(parameters).of_type("Microsoft.Network/virtualNetworks")
    made = evaluate({**parameters, "networkIsolation": False})
    assert not [one for one in made.resources if one.type.startswith("Microsoft.Network/")]
    assert made.of_type("Microsoft.Web/sites/config")


# ------------------------------------------------------------------------------------------------ Data Factory


def activities(listed: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Activities and those inside of them."""
    for one in listed:
        yield one
        for key in ("activities", "ifTrueActivities", "ifFalseActivities"):
            yield from activities(one.get("typeProperties", {}).get(key, []))


def test_the_pipeline_refers_to_what_it_has(deployment: Evaluated) -> None:
    """Activities, variables, parameters and linked services that its expressions name; brackets in pairs."""
    made = deployment("data-factory")
    (pipeline,) = made.of_type("Microsoft.DataFactory/factories/pipelines")
    found = list(activities(pipeline.properties["activities"]))
    names = [one["name"] for one in found]
    assert len(names) == len(set(names))
    text = json.dumps(pipeline.properties)
    assert set(re.findall(r"activity\('(\w+)'\)", text)) <= set(names)
    assert set(re.findall(r"variables\('(\w+)'\)", text)) == set(pipeline.properties["variables"])
    assert set(re.findall(r"parameters\.(\w+)", text)) == set(pipeline.properties["parameters"])
    assert {needed["activity"] for one in found for needed in one.get("dependsOn", [])} <= set(names)
    linked = {one.body["name"] for one in made.of_type("Microsoft.DataFactory/factories/linkedservices")}
    assert {one["linkedServiceName"]["referenceName"] for one in found if "linkedServiceName" in one} <= linked
    for expression in re.findall(r'"value": "(@(?:[^"\\]|\\.)*)"', text):
        assert expression.count("(") == expression.count(")")
    for trigger in made.of_type("Microsoft.DataFactory/factories/triggers"):
        for started in trigger.properties["pipelines"]:
            assert started["pipelineReference"]["referenceName"] == pipeline.body["name"]
            assert set(started["parameters"]) <= set(pipeline.properties["parameters"])


def test_the_pipeline_shows_no_input_and_output(deployment: Evaluated) -> None:
    """Every activity that talks to the app keeps what goes in and out from the factory's logs."""
    (pipeline,) = deployment("data-factory").of_type("Microsoft.DataFactory/factories/pipelines")
    calls = [one for one in activities(pipeline.properties["activities"]) if "linkedServiceName" in one]
    assert len(calls) == 2
    assert all(one["policy"]["secureInput"] and one["policy"]["secureOutput"] for one in calls)


def test_the_pipeline_calls_routes_that_the_app_has(deployment: Evaluated) -> None:
    """POST loads and GET loads/{run_id}; what ends the polling are statuses that the app gives."""
    routes = set(
        re.findall(r'@app\.route\(route="([^"]+)", methods=\["(\w+)"\]\)', (ROOT / "function_app.py").read_text())
    )
    (pipeline,) = deployment("data-factory").of_type("Microsoft.DataFactory/factories/pipelines")
    calls = {
        one["name"]: one["typeProperties"]
        for one in activities(pipeline.properties["activities"])
        if "linkedServiceName" in one
    }
    assert (calls["StartLoad"]["functionName"], calls["StartLoad"]["method"]) in routes
    assert calls["GetLoad"]["functionName"]["value"] == "@concat('loads/', activity('StartLoad').output.run_id)"
    assert ("loads/{run_id}", calls["GetLoad"]["method"]) in routes
    assert '"status": "running"' in (ROOT / "function_app.py").read_text()
    (until,) = (one for one in pipeline.properties["activities"] if one["type"] == "Until")
    assert "'running'" in until["typeProperties"]["expression"]["value"]


# ------------------------------------------------------------------------------------------------ files around


def test_local_settings_are_settings() -> None:
    """The example names what the code, the triggers or the Functions host read."""
    example: dict[str, str] = json.loads((ROOT / "local.settings.example.json").read_text())["Values"]
    platform = {"FUNCTIONS_WORKER_RUNTIME", "AzureWebJobsStorage", "POLARS_MAX_THREADS"}
    assert set(example) - platform <= settings_read()
    assert {"STAGING_ACCOUNT_URL", "INGESTION_ENDPOINT", "DCR_IMMUTABLE_ID", "FULL_SCHEDULE", "DELTA_SCHEDULE"} <= set(
        example
    )


def test_the_configuration_page_explains_every_setting() -> None:
    """docs/configuration.md names each that the code reads."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert sorted(name for name in settings_read() if f"`{name}`" not in page) == []


def test_azd_s_parameters_are_the_template_s() -> None:
    """Every name in the file is declared; what has no default is in it."""
    text = (ROOT / "infra" / "main.bicep").read_text()
    declared = dict(re.findall(r"^param (\w+) \w+( =)?", text, re.MULTILINE))
    given = set(json.loads(Path(combinations()["azd"]).read_text())["parameters"])
    assert given <= set(declared)
    assert {name for name, default in declared.items() if not default} <= given
