"""The check after a deployment, with a stand-in for the Azure CLI that answers from a file, and an app on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.check import ROOT

KEY = "function-key-that-nobody-may-see"
APP_ID = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Web/sites/func"
SCOPE = "/subscriptions/s/resourceGroups/rg/providers"

AZ = """#!{python}
import json, pathlib, stat, sys
here = pathlib.Path(__file__).parent
words = sys.argv[1:]
with (here / "asked").open("a") as asked:
    asked.write(json.dumps(words) + "\\n")
if "--file" in words:
    path = pathlib.Path(words[words.index("--file") + 1])
    (here / "stored").write_text(path.read_text() + " " + oct(stat.S_IMODE(path.stat().st_mode)))
answers = json.loads((here / "answers").read_text())
command = next(name for name in answers if " ".join(words).startswith(name))
answer = answers[command]
if isinstance(answer, str):
    sys.exit("WARNING: something else\\nERROR: " + answer)
print(json.dumps(answer))
"""


def answers() -> dict[str, Any]:
    """What Azure says of a deployment where all is right."""
    roles = [
        ("Storage Blob Data Owner", f"{SCOPE}/Microsoft.Storage/storageAccounts/h"),
        ("Storage Queue Data Contributor", f"{SCOPE}/Microsoft.Storage/storageAccounts/h"),
        ("Storage Table Data Contributor", f"{SCOPE}/Microsoft.Storage/storageAccounts/h"),
        (
            "Storage Blob Data Contributor",
            f"{SCOPE}/Microsoft.Storage/storageAccounts/d/blobServices/default/containers/caasm",
        ),
        ("Key Vault Secrets User", f"{SCOPE}/Microsoft.KeyVault/vaults/kv"),
        ("Monitoring Metrics Publisher", f"{SCOPE}/Microsoft.Insights/dataCollectionRules/dcr"),
        ("Monitoring Metrics Publisher", f"{SCOPE}/microsoft.insights/components/appi"),
    ]
    return {
        "functionapp show": {
            "id": APP_ID,
            "identity": {"userAssignedIdentities": {"id": {"clientId": "c-1", "principalId": "p-1"}}},
            "properties": {"state": "Running", "defaultHostName": "func.example.com"},
        },
        "functionapp config appsettings list": [
            {"name": "AZURE_CLIENT_ID", "value": "c-1"},
            {"name": "TENABLE_ACCESS_KEY", "value": "@Microsoft.KeyVault(VaultName=kv;SecretName=tenable-access-key)"},
        ],
        "role assignment list": [{"roleDefinitionName": role, "scope": scope} for role, scope in roles],
        "rest": {
            "value": [
                {
                    "name": "TENABLE_ACCESS_KEY",
                    "properties": {"status": "Resolved", "vaultName": "kv", "secretName": "tenable-access-key"},
                }
            ]
        },
        "functionapp keys list": {"functionKeys": {"default": KEY}},
        "keyvault secret set": {"id": "https://kv/secrets/caasm-function-key"},
    }


HEALTHY = {
    "status": "ok",
    "findings": [
        {"id": "dcr.role", "severity": "ok", "subject": "dcr-0", "seen": "204", "remedy": "", "link": ""},
        {
            "id": "transport.proxy",
            "severity": "warning",
            "subject": "HTTPS_PROXY",
            "seen": "set",
            "remedy": "let it pass",
            "link": "docs/runbook.md#network",
        },
    ],
}


class Verified:
    """Runs the script, and what came of it."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory, self.url = directory, url

    def run(self, given: dict[str, Any], *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (self.directory / "answers").write_text(json.dumps(given))
        return subprocess.run(
            [sys.executable, str(ROOT / "infra" / "verify.py"), "--url", self.url, *arguments],
            env={"PATH": f"{self.directory}:{os.environ['PATH']}", "AZURE_RESOURCE_GROUP": "rg", "AZURE_FUNCTION_NAME": "func", **environment},
            cwd=self.directory, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    @property
    def asked(self) -> str:
        return (self.directory / "asked").read_text()


@pytest.fixture
def verified(tmp_path: Path, listen: Any, reply: Any) -> Callable[..., Verified]:
    """A function: the script with an app that answers its health route with this body and status."""

    def start(body: Any = HEALTHY, status: int = 200) -> Verified:
        program = tmp_path / "az"
        program.write_text(AZ.format(python=sys.executable))
        program.chmod(0o755)

        def answer(asked: Any) -> Any:
            right = (asked.path, {k.lower(): v for k, v in asked.headers.items()}.get("x-functions-key")) == (
                "/api/health",
                KEY,
            )
            return reply(json.dumps(body).encode(), status if right else 401)

        return Verified(tmp_path, listen(answer).url)

    return start


def test_a_right_deployment_has_no_finding(verified: Callable[..., Verified]) -> None:
    """Every check is told, none failed, and the key is nowhere to be seen."""
    script = verified()
    run = script.run(answers())
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.endswith("12 checks, 0 failed\n")
    assert "app: dcr.role of dcr-0: 204" in run.stdout
    assert (
        "doubt  app: transport.proxy of HTTPS_PROXY: set\n       → let it pass (docs/runbook.md#network)" in run.stdout
    )
    assert KEY not in run.stdout + script.asked


def without(role: str, scope: str = "") -> Callable[[dict[str, Any]], None]:
    def change(given: dict[str, Any]) -> None:
        given["role assignment list"] = [
            one
            for one in given["role assignment list"]
            if not (one["roleDefinitionName"] == role and scope.lower() in one["scope"].lower())
        ]

    return change


def replaced(command: str, answer: Any) -> Callable[[dict[str, Any]], None]:
    def change(given: dict[str, Any]) -> None:
        given[command] = answer

    return change


def stopped(given: dict[str, Any]) -> None:
    given["functionapp show"]["properties"]["state"] = "Stopped"


def scheduler(given: dict[str, Any]) -> None:
    given["functionapp config appsettings list"].append(
        {"name": "DURABLE_TASK_SCHEDULER_CONNECTION_STRING", "value": "Endpoint=e"}
    )


def unresolved(given: dict[str, Any]) -> None:
    given["rest"]["value"][0]["properties"]["status"] = "AccessToKeyVaultDenied"


def other_identity(given: dict[str, Any]) -> None:
    given["functionapp config appsettings list"][0]["value"] = "c-2"


def no_products(given: dict[str, Any]) -> None:
    del given["functionapp config appsettings list"][1]


WRONG = {
    "not signed in": (replaced("functionapp show", "Please run 'az login' to setup account."), "app: Please run", "az login"),
    "stopped": (stopped, "app: func is Stopped", "az functionapp start -g rg -n func"),
    "another identity": (other_identity, "identity: AZURE_CLIENT_ID is no identity", "deploy infra/ again"),
    "no role on the DCR": (without("Monitoring Metrics Publisher", "datacollectionrules"), "role Monitoring Metrics Publisher on the data collection rule", "30 minutes"),
    "no role on staging": (without("Storage Blob Data Contributor"), "role Storage Blob Data Contributor", "Owner or User Access"),
    "no role on the task hub": (scheduler, "role Durable Task Data Contributor", "Owner or User Access"),
    "roles cannot be read": (replaced("role assignment list", "does not have authorization"), "roles: does not have authorization", "Reader"),
    "a secret is not resolved": (unresolved, "secret of TENABLE_ACCESS_KEY: AccessToKeyVaultDenied", "--vault-name kv --name tenable-access-key"),
    "a reference was never looked up": (replaced("rest", {"value": []}), "not looked up yet", "restart the app"),
    "no product": (no_products, "secrets: no product has secrets", "CAASM_SOURCES"),
    "the key cannot be read": (replaced("functionapp keys list", "AuthorizationFailed"), "app's key: AuthorizationFailed", "Website Contributor"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_its_remedy(verified: Callable[..., Verified], case: str) -> None:
    """In one line each, and the exit code says it too."""
    change, words, remedy = WRONG[case]
    given = answers()
    change(given)
    run = verified().run(given)
    assert run.returncode == 1, run.stderr
    failed = run.stdout.split("FAILED ", 1)[1]
    assert failed.startswith(words) or words in failed
    assert remedy in failed


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"status": "error", "findings": [{"id": "product.key", "severity": "error", "subject": "tenable", "seen": "401", "remedy": "set TENABLE_ACCESS_KEY", "link": ""}]}, 503, "→ set TENABLE_ACCESS_KEY"),
        ({"error": "no"}, 404, "without GET /api/health"),
        ({"error": "no"}, 500, "no list of findings"),
        ([1], 200, "no list of findings"),
    ],
    ids=["a finding of the app's", "no route", "a crash", "another answer"],
)  # fmt: skip
def test_what_the_app_says_is_passed_on(verified: Callable[..., Verified], body: Any, status: int, words: str) -> None:
    """Its findings with their remedies; anything else is a finding of its own."""
    run = verified(body, status).run(answers())
    assert run.returncode == 1
    assert words in run.stdout


def test_an_app_that_cannot_be_reached_is_told(verified: Callable[..., Verified]) -> None:
    """A private app is checked from inside its network."""
    script = verified()
    script.url = "http://127.0.0.1:1"
    run = script.run(answers())
    assert run.returncode == 1
    assert "does not answer" in run.stdout


def test_data_factory_gets_the_key_by_a_file(verified: Callable[..., Verified]) -> None:
    """Not on a command line, which every process of the machine can read."""
    script = verified()
    run = script.run(answers(), AZURE_DATA_FACTORY_VAULT_NAME="kv-adf")
    assert run.returncode == 0, run.stdout
    assert (script.directory / "stored").read_text() == f"{KEY} 0o600"
    assert KEY not in run.stdout + script.asked


def test_a_deployment_has_to_be_named(verified: Callable[..., Verified]) -> None:
    run = verified().run(answers(), AZURE_FUNCTION_NAME="")
    assert run.returncode == 2
    assert "--app" in run.stderr
