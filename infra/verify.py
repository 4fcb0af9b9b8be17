"""What a deployment came to: `python3 infra/verify.py` asks Azure about the app, its identity, roles and secrets, and the app about itself, and prints remedies.

Invariant: nothing is changed (but with --store-key, which writes the app's key where Data Factory and playbooks read it), no secret is printed or is on a command
line, and everything is asked before anything is judged final: one run names all that is wrong. Needs the Azure CLI, signed in, and no package.

What only the app's identity can prove (an empty post to the DCR, blob access, the product's login) is asked of the app: `GET /api/health`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROLES: Final = Path(__file__).resolve().parent / "roles.json"

HEALTH_TIMEOUT_S: Final = 230.0
"""The longest that the platform lets an HTTP request take; a cold app uses some of it."""

ALWAYS_NEEDED: Final = ("storageBlobDataOwner", "storageBlobDataContributor", "keyVaultSecretsUser")

KEY_VAULTS: Final = ("AZURE_DATA_FACTORY_VAULT_NAME", "AZURE_PLAYBOOK_VAULT_NAME")
"""Variables of azd that name vaults of callers of our API."""

STATE_NEEDED: Final = {
    "storage": ("storageQueueDataContributor", "storageTableDataContributor"),
    "scheduler": ("durableTaskDataContributor",),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: whether it is right, what was seen, and what to do when it is not. `doubtful`: loads may run all the same."""

    check: str
    ok: bool
    detail: str = ""
    remedy: str = ""
    doubtful: bool = False

    def __str__(self) -> str:
        mark = "doubt " if self.doubtful else "ok    " if self.ok else "FAILED"
        lines = [f"{mark} {self.check}{': ' if self.detail else ''}{self.detail}"]
        return "\n".join([*lines, *([f"       → {self.remedy}"] if self.remedy and mark != "ok    " else [])])


class AzError(RuntimeError):
    """The Azure CLI refused; the text is its last line."""


def az(*arguments: str) -> Any:
    """The JSON that a command of the Azure CLI prints, None when it prints nothing. Raises AzError."""
    program = shutil.which("az")
    if program is None:
        raise AzError("the Azure CLI (az) is not installed")
    run = subprocess.run(  # noqa: S603 - a program that was looked up, with our own arguments
        [program, *arguments, "--output", "json"], capture_output=True, text=True, check=False, timeout=300
    )
    if run.returncode != 0:
        said = [line for line in run.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise AzError(said[-1].removeprefix("ERROR: "))
    return json.loads(run.stdout) if run.stdout.strip() else None


def check(group: str, name: str, url: str | None = None) -> Iterator[Finding]:
    """Every finding on a deployment. `url` replaces the app's own, e.g. behind a gateway."""
    place = ("--resource-group", group, "--name", name)
    try:
        app = az("functionapp", "show", *place)
    except AzError as error:
        yield Finding(
            "app",
            ok=False,
            detail=str(error),
            remedy="sign in with `az login`, and choose the subscription with `az account set`",
        )
        return
    # The CLI has shown a site's properties both flat and nested.
    properties = {**app, **(app.get("properties") or {})}
    yield Finding(
        "app",
        properties.get("state") == "Running",
        f"{name} is {properties.get('state')}",
        f"az functionapp start -g {group} -n {name}",
    )
    settings = {
        setting["name"]: setting["value"] for setting in az("functionapp", "config", "appsettings", "list", *place)
    }
    provider = "scheduler" if "DURABLE_TASK_SCHEDULER_CONNECTION_STRING" in settings else "storage"
    yield from _identity(app, settings, provider)
    yield from _references(app, settings)
    yield from _health(url or f"https://{properties.get('defaultHostName')}", place)


def _identity(app: dict[str, Any], settings: Mapping[str, str], provider: str) -> Iterator[Finding]:
    identities = list(((app.get("identity") or {}).get("userAssignedIdentities") or {}).values())
    mine = next((one for one in identities if one.get("clientId") == settings.get("AZURE_CLIENT_ID")), None)
    yield Finding(
        "identity",
        mine is not None,
        "AZURE_CLIENT_ID is the app's identity" if mine else "AZURE_CLIENT_ID is no identity of the app",
        "deploy infra/ again: the setting and the identity come from it",
    )
    if mine is None:
        return
    names = {key: role["name"] for key, role in json.loads(ROLES.read_text(encoding="utf-8")).items()}
    try:
        given = az("role", "assignment", "list", "--assignee", mine["principalId"], "--all")
    except AzError as error:
        yield Finding(
            "roles", ok=False, detail=str(error), remedy="whoever runs this needs to read role assignments (Reader)"
        )
        return
    held = [(one["roleDefinitionName"], one["scope"]) for one in given]
    for key in (*ALWAYS_NEEDED, *STATE_NEEDED[provider]):
        yield Finding(
            f"role {names[key]}",
            names[key] in {role for role, _ in held},
            remedy="deploy infra/ again, as Owner or User Access Administrator",
        )
    publisher = names["monitoringMetricsPublisher"]
    for kind, what in (("datacollectionrules", "the data collection rule"), ("components", "Application Insights")):
        found = any(role == publisher and f"/{kind}/" in scope.lower() for role, scope in held)
        yield Finding(
            f"role {publisher} on {what}",
            found,
            remedy="deploy infra/ again; a new assignment takes up to 30 minutes to be honoured",
        )


def _references(app: dict[str, Any], settings: Mapping[str, str]) -> Iterator[Finding]:
    wanted = {name for name, value in settings.items() if str(value).startswith("@Microsoft.KeyVault(")}
    if not wanted:
        yield Finding(
            "secrets",
            ok=False,
            detail="no product has secrets",
            remedy="name the products in CAASM_SOURCES and deploy again",
        )
        return
    try:
        listed = az(
            "rest",
            "--method",
            "get",
            "--url",
            f"{app['id']}/config/configreferences/appsettings?api-version=2025-03-01",
        )
    except AzError as error:
        yield Finding(
            "secrets", ok=False, detail=str(error), remedy="whoever runs this needs to read the app's configuration"
        )
        return
    states = {one["name"]: one["properties"] for one in listed.get("value", [])}
    for name in sorted(wanted):
        state = states.get(name, {})
        secret, vault = state.get("secretName", "?"), state.get("vaultName", "?")
        yield Finding(
            f"secret of {name}",
            state.get("status") == "Resolved",
            str(state.get("status", "not looked up yet")),
            f"az keyvault secret set --vault-name {vault} --name {secret} --file <file with the value>, then restart the app",
        )


def _health(url: str, place: tuple[str, ...]) -> Iterator[Finding]:
    try:
        key = function_key(place)
    except AzError as error:
        yield Finding(
            "app's key", ok=False, detail=str(error), remedy="whoever runs this needs Website Contributor on the app"
        )
        return
    request = urllib.request.Request(f"{url}/api/health", headers={"x-functions-key": key})  # noqa: S310 - https, or what the caller named
    try:
        with urllib.request.urlopen(request, timeout=HEALTH_TIMEOUT_S) as answer:  # noqa: S310 - as above
            body = answer.read()
    except urllib.error.HTTPError as error:
        body = error.read()
        if error.code == 404:
            yield Finding(
                "health",
                ok=False,
                detail="404",
                remedy="the app is not deployed, or of a version without GET /api/health: azd deploy",
            )
            return
    except OSError as error:
        yield Finding(
            "health",
            ok=False,
            detail=f"{url} does not answer ({type(error).__name__})",
            remedy="from inside the network, or open it: apiPublicAccess, apiAllowedRanges",
        )
        return
    try:
        findings = json.loads(body)["findings"]
        yield from (
            Finding(
                f"app: {one['id']} of {one['subject']}",
                one["severity"] != "error",
                one["seen"],
                f"{one['remedy']} ({one['link']})" if one["link"] else one["remedy"],
                one["severity"] == "warning",
            )
            for one in findings
        )
    except (ValueError, KeyError, TypeError):
        yield Finding(
            "health",
            ok=False,
            detail="the answer is no list of findings",
            remedy="look at the app's log: its settings may be refused",
        )


def function_key(place: tuple[str, ...]) -> str:
    """The app's default key for HTTP triggers. Raises AzError."""
    keys = az("functionapp", "keys", "list", *place) or {}
    key = (keys.get("functionKeys") or {}).get("default")
    if not key:
        raise AzError("the app has no default function key")
    return str(key)


def store_key(place: tuple[str, ...], vault: str) -> Finding:
    """Write the app's key into a vault that Data Factory or a playbook reads. The value goes through a file that only we can read."""
    try:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "key"
            path.touch(mode=0o600)
            path.write_text(function_key(place), encoding="utf-8")
            az(
                "keyvault",
                "secret",
                "set",
                "--vault-name",
                vault,
                "--name",
                "caasm-function-key",
                "--file",
                str(path),
                "--encoding",
                "utf-8",
            )
    except AzError as error:
        return Finding(
            "key for callers",
            ok=False,
            detail=str(error),
            remedy=f"whoever runs this needs Key Vault Secrets Officer on {vault}",
        )
    return Finding("key for callers", ok=True, detail=f"caasm-function-key in {vault}")


def main() -> int:
    """Print every finding; 1 when one is wrong, 2 when it is not known what to look at."""
    parser = argparse.ArgumentParser(prog="python3 infra/verify.py", description="Check a deployment.")
    parser.add_argument(
        "--resource-group",
        default=os.environ.get("AZURE_RESOURCE_GROUP"),
        help="default: AZURE_RESOURCE_GROUP, which azd sets",
    )
    parser.add_argument(
        "--app", default=os.environ.get("AZURE_FUNCTION_NAME"), help="default: AZURE_FUNCTION_NAME, which azd sets"
    )
    parser.add_argument("--url", help="of the app, where it is reached otherwise than by its own name")
    parser.add_argument(
        "--store-key",
        metavar="VAULT",
        nargs="*",
        default=[vault for name in KEY_VAULTS if (vault := os.environ.get(name))],
        help="write the app's key into these vaults, where Data Factory and the playbooks read it",
    )
    options = parser.parse_args()
    if not options.resource_group or not options.app:
        sys.stderr.write("name the deployment: --resource-group and --app\n")
        return 2
    findings = list(check(options.resource_group, options.app, options.url))
    place = ("--resource-group", options.resource_group, "--name", options.app)
    findings += [store_key(place, vault) for vault in options.store_key]
    wrong = [finding for finding in findings if not finding.ok]
    sys.stdout.write("\n".join([*map(str, findings), "", f"{len(findings)} checks, {len(wrong)} failed", ""]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
