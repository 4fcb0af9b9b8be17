"""Write the resource types that bicepcheck's own type file lacks, from the azure-mgmt packages that are installed: run by hand when an apiVersion changes.

    python -m venv .t && .t/bin/pip install six azure-mgmt-monitor==7.0.0 azure-mgmt-loganalytics==13.1.1 azure-mgmt-web==10.1.0 azure-mgmt-keyvault==11.0.0 azure-mgmt-securityinsight==2.0.0b4
    .t/bin/python infra/sdk_types.py ../shared/tools infra/sdk_types.json
    .t/bin/pip install azure-mgmt-monitor==6.0.2          # the last one with diagnostic settings and private link scopes
    .t/bin/python infra/sdk_types.py ../shared/tools infra/sdk_types.json

Invariant: a type that the installed packages do not have stays as the file has it, so that several environments together fill it.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any, Final

RESOURCES: Final = {
    "Microsoft.KeyVault/vaults": ("azure.mgmt.keyvault.v2024_11_01.models", "VaultCreateOrUpdateParameters", "2024-11-01"),
    "Microsoft.Insights/scheduledQueryRules": ("azure.mgmt.monitor.models", "ScheduledQueryRuleResource", "2023-12-01"),
    "Microsoft.Insights/actionGroups": ("azure.mgmt.monitor.models", "ActionGroupResource", "2023-01-01"),
    "Microsoft.Insights/diagnosticSettings": (
        "azure.mgmt.monitor.v2021_05_01_preview.models",
        "DiagnosticSettingsResource",
        "2021-05-01-preview",
    ),
    "Microsoft.Insights/privateLinkScopes": (
        "azure.mgmt.monitor.v2021_07_01_preview.models",
        "AzureMonitorPrivateLinkScope",
        "2021-07-01-preview",
    ),
    "Microsoft.Insights/privateLinkScopes/scopedResources": (
        "azure.mgmt.monitor.v2021_07_01_preview.models",
        "ScopedResource",
        "2021-07-01-preview",
    ),
    "Microsoft.OperationalInsights/workspaces/savedSearches": ("azure.mgmt.loganalytics.models", "SavedSearch", "2025-07-01"),
    "Microsoft.SecurityInsights/watchlists": ("azure.mgmt.securityinsight.models", "Watchlist", "2025-09-01"),
    "Microsoft.Web/sites/basicPublishingCredentialsPolicies": (
        "azure.mgmt.web.models",
        "CsmPublishingCredentialsPoliciesEntity",
        "2025-03-01",
    ),
}  # fmt: skip
"""Resource type: module, class, and the apiVersion that this package version speaks."""

BY_HAND: Final[dict[str, dict[str, Any]]] = {
    # No package has API connections; this is what connections with a managed identity consist of (the community's playbooks).
    "Microsoft.Web/connections@2016-06-01": {
        "body": 4,
        "types": [
            {"k": "string"},
            {"k": "object", "n": "ApiReference", "p": {"id": [0, 1]}},
            {"k": "object", "n": "ConnectionProperties", "p": {"api": [1, 1], "displayName": [0, 1], "parameterValueType": [5, 0]}},
            {"extra": 0, "k": "object", "n": "{str}", "p": {}},
            {"k": "object", "n": "Connection", "p": {"kind": [6, 0], "location": [0, 1], "name": [0, 1], "properties": [2, 1], "tags": [3, 0]}},
            {"k": "lit", "v": "Alternative"},
            {"k": "lit", "v": "V1"},
        ],
    }
}  # fmt: skip
"""Types as the file holds them: `p` is property to [type, 1 where required], a type is its place in the list."""

NEW_GENERATION_ONLY: Final = {"Microsoft.Insights/scheduledQueryRules", "Microsoft.Insights/actionGroups"}
"""Their module exists in older packages too, with an older shape."""


def main(tools: str, out: Path) -> None:
    """Merge what can be imported into the file, one self-contained type list a resource."""
    sys.path.insert(0, tools)
    generator: Any = importlib.import_module("schema_from_sdk")
    made: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for name, (module, cls, version) in RESOURCES.items():
        try:
            models = importlib.import_module(module)
            present = hasattr(models, cls)
        except ImportError:
            present = False
        if not present or (name in NEW_GENERATION_ONLY and not hasattr(models, "DataCollectionRuleResource")):
            continue
        generator.TYPES.clear()
        generator.MEMO.clear()
        body = generator.model(getattr(models, cls), models)
        top = dict(generator.TYPES[body])
        top["p"] = {**top["p"], "name": [generator.simple("string"), 1]}
        types, resources = generator.compact({name: {"body": generator.add(top), "scopes": None}})
        made[f"{name}@{version}"] = {"body": resources[name]["body"], "types": types}
    made |= BY_HAND
    out.write_text(json.dumps(made, separators=(",", ":"), sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
