"""What can be told from the settings, host.json and the kernel alone: wrong values, misspelled names, half a product, schedules, proxies, the task hub.

Invariant: no request is made and no value of a secret is quoted; only names are, and what a bound says.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import native
from contracts import JsonDict
from doctor.findings import Finding, doubt, fine, wrong
from settings import Settings, look_at
from sources.registry import SOURCES

SCHEDULES: Final = ("FULL_SCHEDULE", "DELTA_SCHEDULE")

SCHEDULER_CONNECTION: Final = "DURABLE_TASK_SCHEDULER_CONNECTION_STRING"

REFERENCE: Final = "@Microsoft.KeyVault("
"""How a secret begins that the platform should have replaced."""

_LIKENESS: Final = 0.84
"""How alike two names are to be one misspelled: a letter more, less, or two swapped in ten."""

_NOT_OURS: Final = re.compile(r"(WEBSITE|FUNCTIONS|APPLICATIONINSIGHTS|AzureWebJobs|AzureFunctions|APPSETTING|SCM)_?")

_BOUNDS: Final = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
"""Of the six fields of an NCRONTAB expression: second, minute, hour, day, month, day of the week."""

_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")

_DAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")

_NAMES: Final = {
    **{name: number for number, name in enumerate(_MONTHS, 1)},
    **{name: number for number, name in enumerate(_DAYS)},
}


class _Asked(Mapping[str, str]):
    """An environment that remembers which names are looked up."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def known_settings() -> set[str]:
    """Every setting that the app reads."""
    asked = _Asked()
    look_at(asked)
    # Only read when DESTINATIONS is not set; then they are read all the same.
    return asked.names | {native.SWITCH}


def settings_findings(settings: Settings, problems: list[str], environment: Mapping[str, str]) -> Iterator[Finding]:
    """Wrong and missing values, names that nothing reads, secrets that the platform did not resolve, products that are half set."""
    for problem in problems:
        name = re.split(r"[ :]", problem, maxsplit=1)[0]
        yield wrong("settings.secret" if "Key Vault reference" in problem else "settings.wrong", name, problem)
    for name, like in misspelled(environment):
        yield doubt("settings.unknown", name, f"nothing reads it; {like} is read")
    for name, source in settings.sources.items():
        given = [secret for secret in SOURCES[name].secrets if f"{name.upper()}_{secret.upper()}" not in source.missing]
        if given and source.missing:
            yield wrong("settings.product", name, f"{', '.join(source.missing)} missing")
    if not configured(settings):
        yield doubt("settings.product", "products", f"none is set up; there are {', '.join(SOURCES)}")
    if not problems:
        yield fine("settings.wrong", "settings", f"{', '.join(configured(settings)) or 'no product'} set up")


def configured(settings: Settings) -> list[str]:
    """The products that are set up. One whose secret the platform did not resolve is not: nobody is to send a reference as if it were a key."""
    return [
        name
        for name, source in settings.sources.items()
        if not source.missing and not any(secret.startswith(REFERENCE) for secret in source.secrets.values())
    ]


def misspelled(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Names in the environment that nothing reads and that look like one that is, with that one."""
    known = known_settings()
    found = []
    for name in sorted(environment):
        if name in known or _NOT_OURS.match(name):
            continue
        close = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=_LIKENESS)
        # What is set under its right name as well is no slip.
        if close and close[0] not in environment:
            found.append((name, close[0]))
    return found


def schedule_findings(settings: Settings) -> Iterator[Finding]:
    """Whether the timers' schedules are NCRONTAB expressions of six fields; the host does not start a function with another."""
    for name, text in zip(SCHEDULES, (settings.full_schedule, settings.delta_schedule), strict=True):
        if not text:
            severity = wrong if settings.scheduled else doubt
            yield severity("settings.schedule", name, "not set: the timer trigger cannot be indexed without it")
        elif not is_schedule(text):
            yield wrong("settings.schedule", name, f"{text!r} is no NCRONTAB expression of six fields")
        else:
            yield fine("settings.schedule", name, text)


def is_schedule(text: str) -> bool:
    """Whether the text is an NCRONTAB expression with seconds, or a TimeSpan."""
    if re.fullmatch(r"(\d+\.)?\d{1,2}:\d\d:\d\d", text):
        return True
    fields = text.split()
    return len(fields) == len(_BOUNDS) and all(
        _in_bounds(part, low, high)
        for field, (low, high) in zip(fields, _BOUNDS, strict=True)
        for part in field.upper().split(",")
    )


def _in_bounds(part: str, low: int, high: int) -> bool:
    spread, _, step = part.partition("/")
    if ("/" in part and not (step.isdigit() and int(step))) or not spread:
        return False
    if spread == "*":
        return True
    ends = [_NAMES.get(end, int(end) if end.isascii() and end.isdigit() else -1) for end in spread.split("-")]
    return len(ends) <= 2 and all(low <= end <= high for end in ends) and ends == sorted(ends)


def transport_findings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Proxies and certificate files, which the libraries below us read."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        if environment.get(name):
            exempt = environment.get("NO_PROXY") or environment.get("no_proxy") or "nothing"
            yield doubt("transport.proxy", name, f"requests to Azure go through a proxy, but for {exempt}")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        path = environment.get(name)
        if path and not Path(path).exists():
            yield wrong("transport.certificates", name, f"{path!r} is not there")


def kernel_findings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the kernel does what it can. Without it loads give the same, later; who switched it off knows that."""
    library, state = native.look(environment.get(native.SWITCH, ""))
    if library is not None or native.is_off(environment.get(native.SWITCH, "")):
        yield fine("kernel.use", "kernel", state)
    else:
        yield doubt("kernel.use", "kernel", state)


def task_hub_findings(host: JsonDict, environment: Mapping[str, str]) -> Iterator[Finding]:
    """The hub's name, its provider against what is set for it, and the host's own storage where the platform is Azure's."""
    durable: JsonDict = host.get("extensions", {}).get("durableTask", {})
    prefix = "AzureFunctionsJobHost__extensions__durableTask__"
    name = _resolved(str(environment.get(f"{prefix}hubName") or durable.get("hubName") or ""), environment)
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9]{2,44}", name):
        yield fine("taskhub.name", "task hub", name)
    else:
        yield wrong("taskhub.name", "task hub", f"{name!r} is no name for a task hub")
    provider: dict[str, Any] = durable.get("storageProvider", {})
    kind = str(provider.get("type", "AzureStorage"))
    scheduler = bool(environment.get(SCHEDULER_CONNECTION))
    if kind == "azureManaged" and not scheduler:
        yield wrong(
            "taskhub.provider", "host.json", f"names the Durable Task Scheduler, and {SCHEDULER_CONNECTION} is not set"
        )
    elif kind != "azureManaged" and scheduler:
        yield wrong(
            "taskhub.provider", "host.json", f"names {kind}, and {SCHEDULER_CONNECTION} is set: nothing uses it"
        )
    else:
        yield fine("taskhub.provider", "host.json", kind)
    if environment.get("WEBSITE_SITE_NAME"):
        given = [setting for setting in environment if setting.split("__")[0] == "AzureWebJobsStorage"]
        needed = {f"AzureWebJobsStorage__{part}" for part in ("blobServiceUri", "queueServiceUri", "tableServiceUri")}
        if not ("AzureWebJobsStorage" in given or "AzureWebJobsStorage__accountName" in given or needed <= set(given)):
            lacking = ", ".join(sorted(needed - set(given)))
            yield wrong(
                "taskhub.storage",
                "AzureWebJobsStorage",
                f"{lacking} missing: the host has no place for locks and state",
            )


def _resolved(text: str, environment: Mapping[str, str]) -> str:
    """The text with %NAME% replaced by the setting, as the host does it."""
    return re.sub(r"%(\w+)%", lambda match: environment.get(match[1], match[0]), text)
