"""Synthetic CyCognito: domains, web applications, IP ranges, and the issues found on them.

An issue's identity is (asset, issue id): issues go round the assets that bear any, and each round draws from another
group of issue templates, so that no pair comes twice.
"""

from __future__ import annotations

import random
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
    external_ipv4,
    field,
    hex_text,
    join,
    modulo,
    pick,
    table,
    text,
    u64,
    weighted,
)
from local.products.layout import Layouts, compact, raw, slot
from local.products.synthetic import Hanging, Rendering, SyntheticStream

_PRODUCT = "cycognito"
_TEMPLATES = 64
_GROUPS = 8
_LOCALS = ("critical", "high", "high", "medium", "medium", "low", "low", "low")
_LOCAL_SHARES = (1.7, 5.9, 5.9, 18.0, 18.1, 16.8, 16.8, 16.8)
_SUBJECTS = ("TLS", "JS-WIDGET", "EXPOSED-ADMIN", "UNMAINTAINED", "MAIL-POLICY", "HEADER", "AUTH", "PATCH")
_SCORES = {
    "critical": (10.0,),
    "high": (8.0, 8.0, 8.0, 8.0, 9.0),
    "medium": (7.0, 7.0, 6.0, 7.5),
    "low": (5.0, 5.0, 3.0, 4.0),
}
_ORGANISATIONS = table(compact(name)[1:-1] for name, _ in wording.ORGANISATIONS)
_RATINGS = table([b"A"] * 54 + [b"B"] * 2 + [b"C", b"D", b"D", b"D", b"D", b"D", b"F", b"F"])
_OWNED_BY = table([b"null"] * 11 + [compact(name) for name, _ in wording.ORGANISATIONS[:5]])
_LOCATIONS = table([b"[]"] * 7 + [compact([code]) for code in wording.COUNTRIES])


def _reviewed(template: dict[str, Any], copy: int) -> dict[str, Any]:
    """The asset after a review, which its tag numbers: settled, found worse, or given to another owner."""
    changes: dict[str, Any] = {"tags": ["review-" + slot("revision")]}
    if copy == 0:
        changes |= {"investigation_status": "investigated", "status": "normal"}
    elif copy == 1:
        changes |= {"investigation_status": "investigating"}
        if "issues_count" in template:
            changes |= {name: template[name] + 1 for name in ("severe_issues_count", "issues_count")}
    else:
        changes |= {"owned_by": wording.ORGANISATIONS[0][0], "comment": "Moved to another owner"}
    return template | changes


def _moved_on(template: dict[str, Any], copy: int) -> dict[str, Any]:
    """The issue after a review, which its tag numbers: under investigation, of another severity, or accepted."""
    changes: dict[str, Any] = {"tags": ["review-" + slot("revision")]}
    if copy == 0:
        changes |= {"investigation_status": "investigating"}
    elif copy == 1:
        severity = {"critical": "high", "high": "medium", "medium": "high", "low": "medium"}[template["severity"]]
        changes |= {"severity": severity, "severity_score": _SCORES[severity][0]}
    else:
        changes |= {"investigation_status": "investigated", "comment": "Accepted until the next release"}
    return template | changes


def domain_name(seed: int, number: Any) -> Any:
    """The name of domain `number`."""
    return wording.fqdn(seed, number)


def webapp_address(seed: int, number: Any) -> Any:
    """What web application `number` is reached by: a host name, for one in eight an address; unique."""
    h = Draws(seed, "cycognito/webapp", number).hash("kind")
    affine = pc.add(pc.multiply(number, u64(0x2545F49)), u64(0x1000))
    return pc.if_else(
        pc.equal(field(h, 0, 8, 3), u64(0)), external_ipv4(affine), join(text(b"portal."), wording.fqdn(seed, number))
    )


@cache
def _domain_layout() -> Layouts:
    rng = random.Random(4201)  # fixed: templates do not depend on the seed
    templates = []
    for number in range(_TEMPLATES * 4):
        ips = rng.choices([0, 1, 2, 4, 14], [647, 1851, 257, 95, 8])[0]
        subs = rng.choices([0, 1, 2, 5, 8, 40, 190], [2320, 264, 97, 40, 120, 8, 0])[0]
        subs = 190 if number == 0 else subs  # the long tail: one domain in 256
        addresses = [slot(f"ip{k}") for k in range(min(ips, 2))] + [f"240.0.113.{k + 7}" for k in range(ips - 2)]
        names = ["domain/www." + slot("domain"), "domain/m." + slot("domain")][:subs]
        names += [f"domain/n{k}.edge-{rng.randrange(900)}.shared.example" for k in range(subs - 2)]
        places: list[str | None] = [slot("location")] if ips else []
        issues = int(rng.random() < 0.05)
        templates.append(
            {
                "severe_issues_count": issues,
                "owned_by": None,
                "ip_names": addresses,
                "tags": [],
                "id": "domain/" + slot("domain"),
                "sub_domains": names,
                "first_seen": slot("first_seen"),
                "security_rating": slot("rating"),
                "investigation_status": "uninvestigated",
                "status": "new",
                "locations": places + ([None] if rng.random() < 0.01 else []),
                "domain": slot("domain"),
                "last_seen": slot("last_seen"),
                "type": "domain",
                "organizations": [slot("organisation")],
                "hosting_type": slot("hosting"),
                "comment": None,
                "issues_count": issues,
            }
        )
    head, tail = "ip0 ip1", "domain domain domain first_seen rating location domain last_seen organisation hosting"
    return Layouts(templates, f"{head} {tail}".split(), _reviewed, f"{head} revision {tail}".split())


@cache
def _webapp_layout() -> Layouts:
    templates = [
        {
            "severe_issues_count": 0,
            "owned_by": None,
            "tags": [],
            "id": "webapp/" + slot("address"),
            "first_seen": slot("first_seen"),
            "security_rating": slot("rating"),
            "investigation_status": "uninvestigated",
            "status": "new",
            "last_seen": slot("last_seen"),
            "type": "webapp",
            "organizations": [slot("organisation"), *more],
            "hosting_type": "owned",
            "comment": None,
            "issues_count": 0,
        }
        for more in ([], [], [], [], [], [], [], [], [], [], [], [], [], [], [], ["Litware Holdings"])
    ]
    order = ["address", "first_seen", "rating", "last_seen", "organisation"]
    return Layouts(templates, order, _reviewed, ["revision", *order])


@cache
def _iprange_layout() -> Layouts:
    template = {
        "owned_by": None,
        "tags": [],
        "id": "iprange/" + slot("first") + "-" + slot("last"),
        "investigation_status": "uninvestigated",
        "status": "new",
        "type": "iprange",
        "organizations": [slot("organisation")],
        "hosting_type": slot("hosting"),
        "alive": True,
        "comment": None,
    }
    order = ["first", "last", "organisation", "hosting"]
    return Layouts([template], order, _reviewed, ["revision", *order])


def _issue_names(group: int, local: int) -> tuple[str, str]:
    """A template's issue id and what stands behind the place in the record's id, both before the number."""
    if _LOCALS[local] in {"critical", "high"} and local % 2 == 0:
        issue_id = f"CVE-20{20 + group % 6}-9{group}{local}"
    else:
        issue_id = f"CYC-{_SUBJECTS[(group + local) % 8]}-{group}{local}-"
    return issue_id, "-" + issue_id.lower()


def _issue_template(rng: random.Random, group: int, local: int) -> dict[str, object]:
    severity = _LOCALS[local]
    subject = _SUBJECTS[(group + local) % 8]
    issue_id, key = _issue_names(group, local)
    references = [
        f"https://advisories.example/{subject.lower()}/{group}{local}?page={k}&lang=en"
        for k in range(rng.choice([0, 0, 1, 1, 2]))
    ]
    impacts = ["Loss of confidentiality", "Loss of integrity", "Loss of availability", "Reputation damage"]
    return {
        "affected_asset": slot("asset"),
        "owned_by": raw("owned_by"),
        "last_detected": slot("last_detected"),
        "references": references,
        "threat": rng.choice(["Outdated Software", "Interception", "Weak Sign-in", "Data Exposure"]),
        "tags": [],
        "id": "issue/" + slot("place") + key + slot("n"),
        "issue_status": "new",
        "issue_id": issue_id + slot("n"),
        "first_detected": slot("first_detected"),
        "summary": prose_of(rng, severity),
        "resolved_at": None,
        "investigation_status": "uninvestigated",
        "severity_score": rng.choice(_SCORES[severity]),
        "locations": raw("locations"),
        "detection_complexity": rng.choice(["HTTP Request", "Handshake", "Service Detection"]),
        "exploitation_method": rng.choice(["No PoC", "Man-in-the-Middle", "Access", "Public PoC"]),
        "title": f"{subject.title()} weakness {group}{local}: {wording.sentence(rng, 4)}",
        "exploitation_score": rng.choice([5, 5, 5, 4, 3, 2]),
        "issue_type": rng.choice(["Vulnerable Software", "Cryptographic Vulnerability", "Security Hygiene"]),
        "organizations": [slot("organisation"), *(["Litware Holdings"] if rng.random() < 0.25 else [])],
        "comment": None,
        "severity": severity,
        "remediation_steps": [wording.sentence(rng, rng.randint(6, 14)) for _ in range(rng.choice([1, 1, 1, 2]))],
        "potential_impact": impacts[: rng.choice([2, 3, 3, 4])],
    }


def prose_of(rng: random.Random, severity: str) -> str:
    """A summary: sentences with " | " between them, as the product breaks lines."""
    size = rng.choice([20, 30, 60, 90]) + (600 if severity == "critical" or rng.random() < 0.06 else 0)
    return wording.prose(rng, size, " | ", 0.12)


@cache
def _issue_layout() -> Layouts:
    rng = random.Random(4202)  # fixed: templates do not depend on the seed
    templates = [_issue_template(rng, group, local) for group in range(_GROUPS) for local in range(len(_LOCALS))]
    head, tail = "asset owned_by last_detected", "place n n first_detected locations organisation"
    return Layouts(templates, f"{head} {tail}".split(), _moved_on, f"{head} revision {tail}".split())


def _seen(draws: Draws) -> dict[str, Any]:
    h = draws.hash("seen")
    recent = pc.add(field(draws.hash("last", volatile=True), 48, 4, 2), u64(1000))
    return {
        "first_seen": draws.first(Moments(field(h, 48, 900), h)).text(),
        "last_seen": draws.last(Moments(recent, draws.hash("last", volatile=True))).text(),
        "rating": pick(_RATINGS, field(draws.hash("rating", volatile=True), 0, 64, 6)),
        **draws.revision(),
    }


def _domains(count: int, seed: int) -> SyntheticStream:
    hosting = table([b"owned"] * 15 + [b"cloud"])
    countries = table(code.encode() for code in wording.COUNTRIES)

    def render(index: Any, age: Age | None) -> Rendering:
        draws = Draws(seed, "cycognito/domain", index, age)
        h, address = draws.hash("template"), draws.hash("address")
        slots = {
            "domain": domain_name(seed, index),
            "ip0": external_ipv4(address),
            "ip1": external_ipv4(pc.shift_right(address, u64(30))),
            "location": pick(countries, field(h, 16, len(countries))),
            "organisation": pick(_ORGANISATIONS, wording.organisation(seed, index)),
            "hosting": pick(hosting, field(h, 32, 16, 4)),
            **_seen(draws),
        }
        return Rendering(draws.variant(field(h, 0, _TEMPLATES * 4), _TEMPLATES * 4), slots)

    def key(index: Any) -> Any:
        return join(text(b"domain/"), domain_name(seed, index))

    return SyntheticStream(_PRODUCT, "assets_domain", count, _domain_layout(), render, key)


def _webapps(count: int, seed: int) -> SyntheticStream:
    def render(index: Any, age: Age | None) -> Rendering:
        draws = Draws(seed, "cycognito/webapp", index, age)
        slots = {
            "address": webapp_address(seed, index),
            "organisation": pick(_ORGANISATIONS, wording.organisation(seed, index)),
            **_seen(draws),
        }
        return Rendering(draws.variant(field(draws.hash("seen"), 44, 16, 4), 16), slots)

    def key(index: Any) -> Any:
        return join(text(b"webapp/"), webapp_address(seed, index))

    return SyntheticStream(_PRODUCT, "assets_webapp", count, _webapp_layout(), render, key)


def _ipranges(count: int, seed: int) -> SyntheticStream:
    hosting = table([b"undetermined"] * 10 + [b"owned"] * 4 + [b"cloud"] * 2)

    def bounds(index: Any) -> tuple[Any, Any]:
        block = pc.multiply(modulo(pc.add(pc.multiply(index, u64(0x9E3779B1)), u64(seed)), 1 << 24), u64(16))
        return external_ipv4(block), external_ipv4(pc.add(block, u64(15)))

    def render(index: Any, age: Age | None) -> Rendering:
        draws = Draws(seed, "cycognito/iprange", index, age)
        h = draws.hash("template", volatile=True)
        first, last = bounds(index)
        slots = {
            "first": first,
            "last": last,
            "organisation": pick(_ORGANISATIONS, field(h, 0, len(_ORGANISATIONS))),
            "hosting": pick(hosting, field(h, 16, 16, 4)),
            **draws.revision(),
        }
        return Rendering(draws.variant(pc.multiply(field(h, 0, 2, 1), u64(0)), 1), slots)

    def key(index: Any) -> Any:
        first, last = bounds(index)
        return join(text(b"iprange/"), first, text(b"-"), last)

    return SyntheticStream(_PRODUCT, "assets_iprange", count, _iprange_layout(), render, key, timed=False)


class _Issues:
    """Where issue i is found: on the assets in rounds, or, for a share, on an address or certificate of its own."""

    def __init__(self, domains: int, webapps: int, seed: int, orphan_share: float) -> None:
        self.domains = domains
        self.seed = seed
        linked = domains + webapps
        self.bearers = max(1, linked * 2 // 5)
        self.orphans = round(65536 * (orphan_share if linked else 1.0))

    def _bearer(self, index: Any) -> Any:
        """The asset's place among the domains and, behind them, the web applications."""
        return pc.divide(pc.multiply(modulo(index, self.bearers), u64(5)), u64(2))

    def _is_orphan(self, target: Any) -> Any:
        return pc.less(field(target, 0, 65536), u64(self.orphans))

    def links(self, index: Any) -> Any:
        """The asset's place as the issue's life needs it; null for an issue on what is not exported."""
        orphan = self._is_orphan(Draws(self.seed, "cycognito/issue", index).hash("target"))
        return pc.if_else(orphan, pa.scalar(None, pa.uint64()), self._bearer(index))

    def places(self, index: Any) -> dict[str, Any]:
        draws = Draws(self.seed, "cycognito/issue", index)
        h = draws.hash("target")
        turn = pc.divide(index, u64(self.bearers))
        number, is_orphan = self._bearer(index), self._is_orphan(h)
        is_domain = pc.less(number, u64(self.domains))
        host_number = pc.if_else(is_domain, number, pc.subtract(number, u64(self.domains)))
        name = pc.if_else(is_domain, domain_name(self.seed, host_number), webapp_address(self.seed, host_number))
        address = external_ipv4(pc.add(pc.multiply(index, u64(0x5851F42D)), u64(self.seed)))
        certificate = join(
            hex_text(h, 4), hex_text(draws.hash("certificate"), 4), hex_text(draws.hash("more"), 4), hex_text(h, 4)
        )
        is_certificate = pc.equal(field(h, 16, 32, 5), u64(0))
        other = pc.if_else(is_certificate, certificate, address)
        other_kind = pc.if_else(is_certificate, text(b"cert/"), text(b"ip/"))
        kind = pc.if_else(is_domain, text(b"domain/"), text(b"webapp/"))
        place = join(pc.if_else(pc.equal(kind, text(b"webapp/")), text(b"webapp-"), text(b"")), name)
        local = pick(_LOCAL_CHOICE, field(draws.hash("severity"), 0, 4096, 12))
        group = modulo(turn, _GROUPS)
        return {
            "asset": join(pc.if_else(is_orphan, other_kind, kind), pc.if_else(is_orphan, other, name)),
            "place": pc.if_else(is_orphan, other, place),
            "n": digits(pc.add(pc.divide(turn, u64(_GROUPS)), u64(1))),
            "template": pc.add(pc.multiply(group, u64(len(_LOCALS))), pc.cast(local, pa.uint64())),
        }


_LOCAL_CHOICE = weighted(_LOCAL_SHARES)


def _issues(count: int, domains: int, webapps: int, seed: int, orphan_share: float) -> SyntheticStream:
    where, layouts = _Issues(domains, webapps, seed, orphan_share), _issue_layout()
    hangs = Hanging(("assets_domain", "assets_webapp"), where.links)
    keys = table(_issue_names(g, k)[1].encode() for g in range(_GROUPS) for k in range(len(_LOCALS)))

    def render(index: Any, age: Age | None) -> Rendering:
        draws = Draws(seed, "cycognito/issue", index, age)
        h, last = draws.hash("detected"), draws.hash("last", volatile=True)
        slots = where.places(index)
        template = slots.pop("template")
        slots |= {
            "owned_by": pick(_OWNED_BY, field(h, 0, 16, 4)),
            "first_detected": draws.first(Moments(field(h, 48, 900), h)).text(),
            "last_detected": draws.last(Moments(pc.add(field(last, 48, 100), u64(900)), last)).text(),
            "locations": pick(_LOCATIONS, field(h, 8, 16, 4)),
            "organisation": pick(_ORGANISATIONS, field(draws.hash("severity"), 16, len(_ORGANISATIONS))),
            **draws.revision(),
        }
        return Rendering(draws.variant(template, layouts.size), slots)

    def key(index: Any) -> Any:
        found = where.places(index)
        return join(text(b"issue/"), found["place"], pick(keys, found["template"]), found["n"])

    return SyntheticStream(_PRODUCT, "findings_issues", count, layouts, render, key, hangs=hangs)


def streams(assets: int, findings: int, seed: int, orphan_share: float = 0.3) -> list[SyntheticStream]:
    """The four streams: assets split 41 : 50 : 9 over domains, web applications and IP ranges; findings are issues."""
    domains, ranges = assets * 41 // 100, assets * 9 // 100
    webapps = assets - domains - ranges
    return [
        _domains(domains, seed),
        _webapps(webapps, seed),
        _ipranges(ranges, seed),
        _issues(findings, domains, webapps, seed, orphan_share),
    ]
