"""What is found wrong with a deployment: kinds of findings with their remedies, and the report that they make.

Invariant: a kind's remedy and its place in docs/runbook.md are written here once, and nothing leaves a report that was not redacted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from contracts import JsonDict

Severity = Literal["ok", "warning", "error"]

RUNBOOK: Final = "docs/runbook.md"

SEEN_LIMIT: Final = 400
"""Characters of what was seen; answers of services can be pages."""

_ASSIGN: Final = "a new assignment takes up to 30 minutes to be honoured"

KINDS: Final[dict[str, tuple[str, str]]] = {
    "settings.wrong": ("correct the app setting; docs/configuration.md has each with its bounds", "settings"),
    "settings.unknown": ("correct the spelling: nothing reads a setting of this name", "settings"),
    "settings.secret": (
        "give the app's identity Key Vault Secrets User, write the secret into the vault, restart the app",
        "key-rotation",
    ),
    "settings.product": ("set all settings of the product, or none", "settings"),
    "settings.schedule": ("write six fields, seconds first: 0 0 2 * * 6 is Saturday 02:00 UTC", "settings"),
    "transport.proxy": (
        "let the proxy pass the hosts named here, or name them in NO_PROXY; products are reached without it",
        "network",
    ),
    "transport.certificates": ("name a file of certificates (PEM) that exists and can be read", "network"),
    "taskhub.name": ("name the hub with 3 to 45 letters and digits, a letter first, in host.json", "task-hub"),
    "taskhub.provider": (
        "build the package for the provider that the templates were given: make package PROVIDER=storage|scheduler",
        "task-hub",
    ),
    "taskhub.answer": ("look at the host's log: its storage or scheduler, and the identity's roles on it", "task-hub"),
    "taskhub.storage": ("set AzureWebJobsStorage__blobServiceUri and its siblings: deploy infra/ again", "task-hub"),
    "kernel.use": (
        "build it (python -m native.build), or package and deploy anew; loads take longer without it",
        "kernel",
    ),
    "identity.token": (
        "check that the identity of AZURE_CLIENT_ID is assigned to the app; on a laptop sign in with az login",
        "identity",
    ),
    "identity.secret": ("make a new client secret, or use a managed identity, which has none", "key-rotation"),
    "identity.tenant": ("use the tenant of the workspace: AZURE_TENANT_ID, az login --tenant", "identity"),
    "identity.audience": (
        "set INGESTION_AUDIENCE to the cloud's: https://monitor.azure.com, .us or .cn",
        "identity",
    ),
    "identity.expiry": ("check the clock of the machine; sign in again", "identity"),
    "clock.ours": ("set the machine's clock: tokens and signatures are refused when it is off", "clock"),
    "dcr.reach": ("check INGESTION_ENDPOINT (name, region) and the way to it: DNS, firewall, private link", "network"),
    "dcr.tls": ("check who answers in the endpoint's place, and that its certificate authority is trusted", "network"),
    "dcr.token": (
        "use an identity of the workspace's tenant, and the audience of the endpoint's cloud",
        "identity",
    ),
    "dcr.role": (f"give the identity Monitoring Metrics Publisher on the DCR; {_ASSIGN}", "role-on-the-dcr"),
    "dcr.rule": (
        "set DCR_IMMUTABLE_ID to the rule's immutableId (dcr-…, not its name), and the endpoint to its region's",
        "dcr",
    ),
    "dcr.stream": ("deploy the streams of sentinel/tables (infra/), or correct the names in DESTINATIONS", "dcr"),
    "dcr.limited": ("wait; then lower DCR_SHARE or add a rule", "quota"),
    "dcr.trouble": ("look at the service's health, then ask again", "dcr"),
    "contract.access": (
        "let somebody with Reader on the rule and the workspace run this: the app's identity needs no such right",
        "dcr",
    ),
    "contract.rule": ("set DCR_IMMUTABLE_ID and DCR_RESOURCE_ID to one and the same rule", "dcr"),
    "contract.endpoint": ("set INGESTION_ENDPOINT to the endpoint of the rule", "dcr"),
    "contract.stream": ("deploy infra/ again: the rule lacks streams or flows of the contract", "columns"),
    "contract.column": (
        "deploy infra/ again: the service drops, without a word, what the rule does not declare",
        "columns",
    ),
    "contract.table": ("deploy infra/ again: the workspace lacks a table of the contract", "columns"),
    "contract.table_column": (
        "deploy infra/ again, the tables before the rule: see the columns that differ",
        "columns",
    ),
    "storage.reach": ("check STAGING_ACCOUNT_URL and the way to it: DNS, firewall, private endpoint", "network"),
    "storage.network": ("open the account to the app: its network rules or public access refuse us", "storage"),
    "storage.role": (f"give the identity Storage Blob Data Contributor on the container; {_ASSIGN}", "storage"),
    "storage.semantics": ("use a blob service with conditional writes, leases and append blobs", "storage"),
    "storage.trouble": ("look at the account's health, then ask again", "storage"),
    "product.reach": ("check the product's URL setting and the way to it: DNS, firewall, service running", "product"),
    "product.tls": (
        "check who answers in the product's place, and that its certificate authority is trusted",
        "network",
    ),
    "product.key": ("write a valid key into the vault and restart the app", "key-rotation"),
    "product.forbidden": ("give the API user the right to read and export this data in the product", "product"),
    "product.endpoint": ("set the product's URL to its API's; check the licence for this stream", "product"),
    "product.page": ("set the product's URL to its API's: what answers is something else", "product"),
    "product.limited": ("wait for as long as it says; load it at another time than its other readers", "quota"),
    "product.trouble": ("look at the product's health, then ask again", "product"),
    "product.clock": ("set the product's clock: its changed-since filters are off by as much", "clock"),
    "check.late": ("ask again; when it stays so, look at the network's way to what is named here", "network"),
    "check.broke": ("report it with the app's version: the doctor itself has a fault here", "report"),
}
"""Every kind of finding: what to do about it, and the anchor in the runbook that says more."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `subject`: of which setting, rule, product; `seen`: what was there, without secrets."""

    id: str
    severity: Severity
    subject: str
    seen: str

    @property
    def remedy(self) -> str:
        """What to do; nothing when all is well."""
        return "" if self.severity == "ok" else KINDS[self.id][0]

    @property
    def link(self) -> str:
        """Where the runbook says more."""
        return "" if self.severity == "ok" else f"{RUNBOOK}#{KINDS[self.id][1]}"

    def to_json(self) -> JsonDict:
        """The finding as `GET /api/health` gives it."""
        return {
            "id": self.id,
            "severity": self.severity,
            "subject": self.subject,
            "seen": self.seen,
            "remedy": self.remedy,
            "link": self.link,
        }


def fine(kind: str, subject: str, seen: str) -> Finding:
    """Nothing to do."""
    return Finding(kind, "ok", subject, seen)


def doubt(kind: str, subject: str, seen: str) -> Finding:
    """Loads may run; somebody should look."""
    return Finding(kind, "warning", subject, seen)


def wrong(kind: str, subject: str, seen: str) -> Finding:
    """Loads cannot run, or lose something."""
    return Finding(kind, "error", subject, seen)


@dataclass(frozen=True, slots=True)
class Report:
    """Every finding of one examination, and how long that took in seconds."""

    findings: tuple[Finding, ...]
    seconds: float

    @property
    def status(self) -> Severity:
        """The worst severity."""
        found = {finding.severity for finding in self.findings}
        return "error" if "error" in found else "warning" if "warning" in found else "ok"

    def to_json(self) -> JsonDict:
        """The report as `GET /api/health` gives it."""
        return {
            "status": self.status,
            "seconds": round(self.seconds, 2),
            "findings": [finding.to_json() for finding in self.findings],
        }


_CREDENTIALS: Final = re.compile(
    r"eyJ[\w-]+\.[\w-]+\.[\w-]*|(?<=Bearer )[^\s\"']+|(?<=AccountKey=)[^;\s]+|"
    r"(?i:(?<=[?&]sig=)|(?<=[?&]code=)|(?<=client_secret=)|(?<=access_token=))[^&\s\"']+|(?<=://)[^/@\s]*:[^/@\s]*(?=@)"
)


def published(findings: Iterable[Finding], redact: Callable[[str], str]) -> tuple[Finding, ...]:
    """The findings fit to be shown: known secrets and whatever looks like a credential are taken out, long texts cut."""

    def clean(text: str) -> str:
        text = " ".join(_CREDENTIALS.sub("***", redact(text)).split())
        return text if len(text) <= SEEN_LIMIT else text[:SEEN_LIMIT] + " …"

    return tuple(replace(found, subject=clean(found.subject), seen=clean(found.seen)) for found in findings)
