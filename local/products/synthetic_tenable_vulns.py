"""Synthetic Tenable findings: absent keys instead of nulls, and the real sizes: a median of 1.9 KB with a tail of 500 KB.

The findings of an asset follow each other, some assets have many and some none. A finding's identity is (asset uuid,
plugin id, port, protocol): the plugin id is another one for each of an asset's findings, so no identity comes twice.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from local.products import wording
from local.products.columns import (
    Age,
    Draws,
    Moments,
    digits,
    field,
    hex_text,
    join,
    modulo,
    pick,
    table,
    text,
    u64,
    uuid_text,
    weighted,
)
from local.products.layout import Layouts, raw, slot
from local.products.synthetic import Hanging, Inventory, Rendering, SyntheticStream
from local.products.synthetic_tenable import Identity

_SPREAD = 256
_BIG_OUTPUT_BYTES = 465_000  # half a megabyte when escaped
_SEVERITIES = ("info", "low", "medium", "high", "critical")
_TEMPLATES_OF = {"info": 240, "low": 24, "medium": 48, "high": 96, "critical": 24}
_SHARE_OF = {"info": 77.7, "low": 2.3, "medium": 5.9, "high": 12.6, "critical": 1.5}
_RISKS = {
    "info": ("None", "None", "None", "None", "NONE"),
    "low": ("Low", "LOW"),
    "medium": ("Medium", "Medium", "MEDIUM"),
    "high": ("High",),
    "critical": ("Critical",),
}
_SCORES = {"low": (2.6, 3.7), "medium": (5, 5.9), "high": (7.2, 8.8), "critical": (9.8, 10)}
_FAMILIES = (
    ("Windows", 20),
    ("General", 30),
    ("Port scanners", 42),
    ("Web Servers", 11),
    ("Fabrikam Local Checks", 83),
)
_PORTS = (0, 0, 0, 0, 445, 445, 443, 22, 80, 3389)
_SERVICES = {445: "cifs", 443: "www", 22: "ssh", 80: "www"}
_ORDER = [
    "agent",
    "bios",
    "fqdn",
    "ip_name",
    "name",
    "uuid",
    "ip",
    "seen",
    "mac",
    "netbios",
    "tag",
    "plugin",
    "plugin",
    "scan_end",
    "schedule",
    "scan_start",
    "scan",
    "first",
    "last",
    "fixed",
    "indexed",
]


def _output(rng: random.Random, size: int) -> str:
    """Plugin output of about `size` characters: indented lines of paths and values, as plugins print them."""
    lines = [f"\n  Checked by   : scanner {slot('tag')}"] if size > 40 else ["Port was open" + slot("tag")]
    length = len(lines[0])
    while length < size:
        line = f'  Path         : C:\\Programme\\{rng.choice(wording.TEAMS)}\\{rng.randrange(1 << 30):x}.dll\n  Version      : {rng.randint(1, 20)}.{rng.randrange(10000)} ("fixed" : <{rng.randint(1, 20)}.0>)\n'
        lines.append(line)
        length += len(line)
    return "\n".join(lines)


def _v2(rng: random.Random) -> dict[str, object]:
    return {
        "access_complexity": "Medium",
        "access_vector": "Network",
        "authentication": "None required",
        "availability_impact": "Partial",
        "confidentiality_impact": rng.choice(["Partial", "Complete"]),
        "integrity_impact": "Partial",
        "raw": "AV:N/AC:M/Au:N/C:P/I:P/A:P",
    }


def _v3() -> dict[str, object]:
    return {
        "access_complexity": "Low",
        "access_vector": "Network",
        "availability_impact": "High",
        "confidentiality_impact": "High",
        "integrity_impact": "High",
        "raw": "AV:N/AC:L/PR:N/UI:R/S:U/C:H/I:H/A:H",
    }


def _vpr(rng: random.Random) -> dict[str, object]:
    drivers: dict[str, object] = {
        "age_of_vuln": {"lower_bound": 61, "upper_bound": 180} if rng.random() < 0.9 else {"lower_bound": 731},
        "exploit_code_maturity": rng.choice(["UNPROVEN", "UNPROVEN", "HIGH"]),
        "cvss_impact_score_predicted": rng.random() < 0.1,
        "cvss3_impact_score": rng.choice([5.9, 3.6, 6]),
        "threat_intensity_last28": rng.choice(["VERY_LOW", "LOW", "HIGH"]),
    }
    if rng.random() < 0.75:
        drivers["threat_recency"] = {"lower_bound": 8, "upper_bound": 30}
    drivers |= {"threat_sources_last28": rng.choice([["No recorded events"], ["Social Media", "Security Research"]])}
    drivers |= {"product_coverage": rng.choice(["HIGH", "MEDIUM", "LOW"])}
    return {"score": rng.choice([6.7, 9, 4.4, 7.3]), "drivers": drivers, "updated": "2024-05-27T05:25:07Z"}


def _scores(rng: random.Random, severity: str, rich: bool) -> dict[str, object]:
    """Scores and vectors of a weakness; zeros without vectors for an informational plugin of the newer generation."""
    if severity == "info":
        return dict.fromkeys(("cvss3_base_score", "cvss3_temporal_score", "cvss_base_score", "cvss_temporal_score"), 0)
    score = rng.choice(_SCORES[severity])
    alike = {"exploitability": "Unproven", "remediation_level": "Official-fix", "report_confidence": "Confirmed"}
    if not rich:
        return {"cvss3_base_score": score, "cvss3_vector": _v3(), "cvss_base_score": score, "cvss_vector": _v2(rng)}
    return {
        "cvss3_base_score": score,
        "cvss3_temporal_score": 4.6,
        "cvss3_temporal_vector": {**alike, "raw": "E:U/RL:O/RC:C"},
        "cvss3_vector": _v3(),
        "cvss_base_score": score,
        "cvss_temporal_score": 5.3,
        "cvss_temporal_vector": {**alike, "raw": "E:U/RL:OF/RC:C"},
        "cvss_vector": _v2(rng),
    }


def _plugin(rng: random.Random, number: int, severity: str) -> dict[str, object]:
    """The plugin of template `number`: informational ones are short, weaknesses bring CVEs, vectors and references."""
    weak = severity != "info"
    scored = weak and rng.random() < 0.95
    rich = weak and rng.random() < 0.55
    tail = rng.choices([30, 120, 500, 2500, 8000], [50, 30, 12, 6, 2] if not weak else [5, 25, 30, 30, 10])[0]
    cves = (
        [f"CVE-20{rng.randint(17, 24)}-{rng.randint(90000, 99999)}" for _ in range(rng.choice([1, 1, 3, 8, 24]))]
        if scored
        else []
    )
    if number == 0 and severity == "critical":
        cves = ["CVE-2021-44228"]  # a known-exploited one (CISA KEV), so that enrichment finds something
    flags = rng.random() < 0.2
    family, family_id = rng.choice(_FAMILIES)
    d: dict[str, object] = {}
    d |= {"bid": [rng.randint(50000, 99999) for _ in range(rng.randint(1, 6))]} if rich and rng.random() < 0.5 else {}
    d |= {"canvas_package": "CANVAS"} if rich and rng.random() < 0.05 else {}
    d |= {"checks_for_default_account": False, "checks_for_malware": False} if flags else {}
    d |= (
        {"cpe": [f"cpe:/a:contoso:suite:{rng.randint(1, 9)}", "cpe:/o:fabrikam:linux"]}
        if rich or rng.random() < 0.05
        else {}
    )
    d |= {"cve": cves} if cves else {}
    d |= _scores(rng, severity, rich) if scored or (flags and not weak) else {}
    d |= {"description": wording.prose(rng, tail, "\n", 0.08)}
    if rich:
        d |= {"exploit_available": severity in {"high", "critical"}, "exploitability_ease": "Exploits are available"}
    elif flags:
        d |= {"exploit_available": False}
    if flags:
        for name in ("canvas", "core", "d2_elliot", "exploithub", "metasploit"):
            d[f"exploit_framework_{name}"] = False
        d |= {"exploited_by_malware": severity == "critical", "exploited_by_nessus": False}
    elif severity == "critical":
        d |= {"exploited_by_malware": True}
    d |= {"family": family, "family_id": family_id, "has_patch": scored, "id": raw("plugin")}
    d |= {"in_the_news": rng.random() < 0.1} if flags else {}
    d |= {"ms_bulletin": [f"MS24-9{rng.randint(100000, 999999)}"]} if rich and rng.random() < 0.4 else {}
    title = wording.sentence(rng, rng.randint(3, 8))[:-1]
    d |= {"name": f"{family} : {title} (FSA-{slot('plugin')})"}
    d |= {"patch_publication_date": "2024-03-12T00:00:00Z"} if scored else {}
    d |= (
        {"modification_date": "2024-09-13T00:00:00Z", "publication_date": "2024-03-15T00:00:00Z"}
        if rng.random() < 0.91
        else {}
    )
    d |= {"risk_factor": rng.choice(_RISKS[severity])}
    references = [
        f"https://advisories.example/fsa/{rng.randrange(10**6)}?a=1&b=2" for _ in range(rng.choice([1, 1, 2, 5]))
    ]
    d |= {"see_also": references if rng.random() < 0.9 else [""]} if rng.random() < 0.6 else {}
    d |= {"solution": wording.prose(rng, 90, "\n") if weak else rng.choice(["n/a", "N/A"])}
    d |= {"stig_severity": "I"} if rich and rng.random() < 0.2 else {}
    d |= {"synopsis": wording.sentence(rng, 9), "type": rng.choice(["local", "local", "remote", "combined"])}
    d |= {"unsupported_by_vendor": False} if flags else {}
    d |= {"version": f"1.{rng.randint(1, 240)}"}
    d |= {"vuln_publication_date": "2024-03-10T00:00:00Z"} if scored else {}
    kinds = [
        {"type": rng.choice(["FSB", "IAVA", "MSKB"]), "id": f"20{rng.randint(18, 24)}-X-{rng.randint(1000, 9999)}"}
        for _ in range(rng.randint(1, 8))
    ]
    d |= {"xrefs": kinds} if scored else {}
    return d | ({"vpr": _vpr(rng)} if rich and rng.random() < 0.5 else {})


def _asset(rng: random.Random) -> dict[str, object]:
    """The asset part; a fifth of the findings name the host by its address."""
    agent, general = rng.random() < 0.7, rng.random() < 0.84
    d: dict[str, object] = {"agent_uuid": slot("agent")} if agent else {}
    d |= {"bios_uuid": slot("bios")} if rng.random() < 0.57 else {}
    d |= {"device_type": "general-purpose"} if general else {}
    named = rng.random() < 0.9
    d |= {"fqdn": slot("fqdn")} if named else {}
    d |= {"hostname": slot("ip_name") if rng.random() < 0.2 else slot("name"), "uuid": slot("uuid"), "ipv4": slot("ip")}
    d |= (
        {rng.choice(["last_authenticated_results"] * 9 + ["last_unauthenticated_results"]): slot("seen")}
        if general
        else {}
    )
    d |= {"mac_address": slot("mac")} if rng.random() < 0.81 else {}
    d |= {"netbios_name": slot("netbios")} if rng.random() < 0.5 else {}
    d |= (
        {"operating_system": [rng.choice(["Windows Server 2022", "Linux Kernel 6.1 on Debian 12"])]}
        if rng.random() < 0.92
        else {}
    )
    d |= {"network_id": "00000000-0000-0000-0000-000000000000"} if rng.random() < 0.35 else {}
    return d | {"tracked": True}


def _template(rng: random.Random, number: int, severity: str, output: int, state: str) -> dict[str, object]:
    level = _SEVERITIES.index(severity)
    d: dict[str, object] = {"asset": _asset(rng)}
    d |= {"output": _output(rng, output)} if output else {}
    d |= {"plugin": _plugin(rng, number, severity)}
    port = rng.choice(_PORTS)
    d |= {
        "port": {
            "port": port,
            "protocol": _protocol(number),
            **({"service": _SERVICES[port]} if port in _SERVICES else {}),
        }
    }
    d |= {
        "scan": {
            "completed_at": slot("scan_end"),
            "schedule_uuid": "template-5f0c7b1e-" + slot("schedule"),
            "started_at": slot("scan_start"),
            "uuid": slot("scan"),
        },
        "severity": severity,
        "severity_id": level,
        "severity_default_id": level,
        "severity_modification_type": "NONE",
        "first_found": slot("first"),
        "last_found": slot("last"),
    }
    d |= {"last_fixed": slot("fixed")} if state != "OPEN" else {}
    d |= {"state": state}
    return d | ({"indexed": slot("indexed")} if rng.random() < 0.2 and state == "OPEN" else {})


def _altered(template: dict[str, Any], copy: int) -> dict[str, Any]:
    """The finding after a change that its plugin's solution numbers: a new text, a recast severity, or found again."""
    plugin = template["plugin"]
    solution = plugin["solution"] + " (revision " + slot("revision") + ")"
    changed = template | {"plugin": plugin | {"solution": solution}}
    if copy == 1:
        level = (template["severity_id"] + 1) % len(_SEVERITIES)
        changed |= {"severity": _SEVERITIES[level], "severity_id": level, "severity_modification_type": "RECASTED"}
    elif copy == 2 and template["state"] == "OPEN":
        rest: dict[str, Any] = {name: changed.pop(name) for name in ("state", "indexed") if name in changed}
        changed |= {"last_fixed": slot("fixed"), **rest, "state": "REOPENED"}
    return changed


def _protocol(number: int) -> str:
    return "UDP" if number % 9 == 4 else "TCP"


def _output_size(quantile: float) -> int:
    """The length of a plugin output at that quantile, after the real distribution; 0 stands for no output."""
    steps = (
        (0.04, 0),
        (0.12, 12),
        (0.25, 29),
        (0.5, 122),
        (0.75, 268),
        (0.9, 1377),
        (0.95, 4000),
        (0.987, 9500),
        (1.0, 48000),
    )
    return next(size for limit, size in steps if quantile <= limit)


class _Kinds:
    """All templates with what a finding's key and filters need of each: its port, protocol, state and weight."""

    def __init__(self) -> None:
        rng = random.Random(4209)  # fixed: templates do not depend on the seed
        templates: list[dict[str, Any]] = []
        self.groups: list[tuple[str, str]] = []
        for severity, count in _TEMPLATES_OF.items():
            for k in range(count):
                state = "REOPENED" if k % 48 == 7 else "OPEN"
                size = _output_size((k + 0.5) / count) if severity == "info" else _output_size(rng.random() * 0.95)
                templates.append(_template(rng, len(self.groups) if severity == "info" else k, severity, size, state))
                self.groups.append((severity, state))
        for k in range(2):
            templates.append(_template(rng, k, "info", _BIG_OUTPUT_BYTES, "OPEN"))
            self.groups.append(("big", "OPEN"))
        for severity, count in _TEMPLATES_OF.items():
            for k in range(count // 12):
                templates.append(_template(rng, k, severity, 120, "FIXED"))
                self.groups.append((severity, "FIXED"))
        named = _ORDER.index("scan_end")
        self.layouts = Layouts(templates, _ORDER, _altered, [*_ORDER[:named], "revision", *_ORDER[named:]])
        self.endpoints = table(f"/{t['port']['port']}/{t['port']['protocol']}".encode() for t in templates)

    def states(self, age: Age | None) -> Any:
        """The state of each template; of the altered copies too where records have an age."""
        templates = self.layouts.templates if age is None else self.layouts.every
        return table(template["state"].encode() for template in templates)

    def choice(self, big_share: float, fixed_share: float) -> Any:
        """A table of 65,536 template numbers in which each has its share."""
        weights = []
        for severity, state in self.groups:
            alike = self.groups.count((severity, state)) + (
                0 if state == "FIXED" else self.groups.count((severity, "REOPENED"))
            )
            if severity == "big":
                weights.append(big_share * (1 - fixed_share) / alike)
                continue
            share = (
                _SHARE_OF[severity] / 100 * (fixed_share if state == "FIXED" else (1 - big_share) * (1 - fixed_share))
            )
            count = alike if state == "FIXED" else _TEMPLATES_OF[severity]
            weights.append(share / count)
        return weighted(weights, 65536)


@cache
def _kinds() -> _Kinds:
    return _Kinds()


class _Links:
    """Which asset finding i belongs to: blocks of 256 findings share out a run of assets, the first of it most."""

    def __init__(self, inventory: Inventory) -> None:
        self.assets, self.findings = max(1, inventory.assets), max(1, inventory.findings)
        self.skew = pa.array([int(_SPREAD * (u / _SPREAD) ** 2.2) for u in range(_SPREAD)], pa.uint64())
        self.variety = _SPREAD * (-(-self.findings // self.assets // _SPREAD) + 2)
        self.orphans = 65536 if inventory.assets == 0 else round(65536 * inventory.tenable_orphan_share)

    def asset(self, index: Any, h: Any) -> Any:
        """The asset's number; numbers from `assets` on are of assets that nobody exports.

        Findings that are created later go round the same assets once more.
        """
        index = modulo(index, self.findings)
        block = pc.divide(index, u64(_SPREAD))
        low = pc.divide(pc.multiply(block, u64(_SPREAD * self.assets)), u64(self.findings))
        high = pc.divide(pc.multiply(pc.add(block, u64(1)), u64(_SPREAD * self.assets)), u64(self.findings))
        span = pc.max_element_wise(pc.subtract(pc.min_element_wise(high, u64(self.assets)), low), u64(1))
        step = pc.divide(pc.multiply(pick(self.skew, modulo(index, _SPREAD)), span), u64(_SPREAD))
        number = pc.min_element_wise(pc.add(low, step), u64(self.assets - 1))
        orphan = pc.less(field(h, 0, 65536), u64(self.orphans))
        return pc.if_else(orphan, pc.add(number, u64(self.assets)), number)

    def plugin(self, index: Any, template: Any) -> Any:
        """The plugin id: another one for each of an asset's findings, and the same text for the same id."""
        turn = pc.divide(index, u64(self.findings))
        number = pc.add(modulo(modulo(index, self.findings), self.variety), pc.multiply(turn, u64(self.variety)))
        return pc.add(pc.multiply(number, u64(1024)), pc.cast(template, pa.uint64()))

    def links(self, index: Any, h: Any) -> Any:
        """The asset's number as the finding's life needs it; null for an asset that nobody exports."""
        number = self.asset(index, h)
        return pc.if_else(pc.less(number, u64(self.assets)), number, pa.scalar(None, pa.uint64()))


def stream(inventory: Inventory) -> SyntheticStream:
    """The finding stream. Facts: `state`, and `since` as the product reads it (last fixed, or else last found)."""
    kinds, where, seed = _kinds(), _Links(inventory), inventory.seed
    choice = kinds.choice(inventory.big_output_share, inventory.fixed_share)
    schedules = table(b"000%d-4000-8000-0000000000001d2e3f4a5b6c7d8e" % k for k in range(8))

    def drawn(index: Any, age: Age | None) -> tuple[Draws, Any, Any, Moments]:
        draws = Draws(seed, "tenable/vuln", index, age)
        template = pick(choice, field(draws.hash("template"), 0, 65536))
        number = where.asset(index, draws.hash("link"))
        scan = draws.hash("scan", volatile=True)
        return draws, template, number, Moments(pc.add(field(scan, 48, 124, 12), u64(900)), scan)

    def render(index: Any, age: Age | None) -> Rendering:
        draws, template, number, moments = drawn(index, age)
        found = draws.last(moments)
        who = Identity(seed, number)
        h = draws.hash("first")
        first = draws.first(Moments(field(h, 48, 890), h))
        address, host = who.address(), who.host()
        slots = {
            "agent": who.agent(),
            "bios": who.bios(),
            "fqdn": who.fqdn(),
            "name": host,
            "ip_name": address,
            "uuid": who.uuid(),
            "ip": address,
            "seen": found.text_seconds(),
            "mac": who.mac(),
            "netbios": host,
            "tag": hex_text(h, 1, 16),
            "plugin": digits(where.plugin(index, template)),
            "scan_end": found.text(),
            "schedule": pick(schedules, field(h, 0, 8, 3)),
            "scan_start": found.text_seconds(),
            "scan": uuid_text(draws.hash("scan", volatile=True), number),
            "first": first.text(),
            "last": found.text(),
            "fixed": draws.altered(moments).text_seconds(),
            "indexed": found.text(),
            **draws.revision(),
        }
        return Rendering(draws.variant(template, kinds.layouts.size), slots)

    def key(index: Any) -> Any:
        _, template, number, _ = drawn(index, None)
        plugin = digits(where.plugin(index, template))
        return join(Identity(seed, number).uuid(), text(b"/"), plugin, pick(kinds.endpoints, template))

    def facts(index: Any, age: Age | None) -> Mapping[str, Any]:
        draws, template, _, moments = drawn(index, age)
        found = draws.last(moments).epoch_s()
        state = pick(kinds.states(age), draws.variant(template, kinds.layouts.size))
        since = pc.if_else(pc.equal(state, text(b"FIXED")), draws.altered(moments).epoch_s(), found)
        return {"since": since, "last_found": found, "indexed_at": found, "state": state}

    def links(index: Any) -> Any:
        return where.links(index, Draws(seed, "tenable/vuln", index).hash("link"))

    states = frozenset({"OPEN", "REOPENED"} | ({"FIXED"} if inventory.fixed_share > 0 else set()))
    return SyntheticStream(
        "tenable_io",
        "findings_vulns",
        inventory.findings,
        kinds.layouts,
        render,
        key,
        facts,
        states,
        hangs=Hanging(("assets",), links),
    )
