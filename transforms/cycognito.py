"""CyCognito's records as rows: domains, web applications and IP ranges are assets that were found from the internet; issues are findings.

An identifier is `<kind>/<name>`; an issue's `affected_asset` has the same form and also names kinds that no stream exports (ip, cert).
"""

from __future__ import annotations

import polars as pl

from sentinel.tables import ASSETS, FINDINGS, RELATIONSHIPS
from transforms import relations, severity, values
from transforms.decode import RECORD, Fields
from transforms.rows import Transform

_RISK = {"a": "Info", "b": "Low", "c": "Medium", "d": "High", "f": "Critical"}
"""Security ratings: A is best; there is no E."""

_FINDING_TYPES = {
    "vulnerable software": "Vulnerability",
    "cryptographic vulnerability": "Vulnerability",
    "unsafe authentication": "Misconfiguration",
    "security hygiene": "Misconfiguration",
    "certificate validity": "Misconfiguration",
    "unmaintained asset": "Exposure",
    "exposed data": "Exposure",
    "phishing threat": "Exposure",
}

_CLOSED = r"^(?i:resolved|removed|fixed)$"

_ASSET: Fields = {
    "id": str,
    "type": str,
    "status": str,
    "owned_by": str,
    "organizations": [str],
    "tags": [str],
    "comment": str,
    "hosting_type": str,
    "investigation_status": str,
}
_RATED: Fields = {
    "security_rating": str,
    "issues_count": int,
    "severe_issues_count": int,
    "first_seen": str,
    "last_seen": str,
}
_DOMAIN: Fields = {**_ASSET, **_RATED, "domain": str, "ip_names": [str], "sub_domains": [str], "locations": [str]}
_WEB_APP: Fields = {**_ASSET, **_RATED}
_IP_RANGE: Fields = {**_ASSET, "alive": bool}


def _identified(frame: pl.LazyFrame) -> pl.LazyFrame:
    identified = frame.with_columns(_id=values.text(pl.col("id")), _owner=values.text(pl.col("owned_by")))
    return identified.with_columns(_name=_name(pl.col("_id")))


def _asset_columns(asset_type: str) -> dict[str, pl.Expr]:
    notes = [
        pl.when(pl.col(field).str.strip_chars() != "").then(pl.concat_str(pl.lit(f"{field}="), pl.col(field)))
        for field in ("hosting_type", "investigation_status", "comment")
    ]
    return {
        "EntityOriginalId": pl.col("_id"),
        "AssetId": pl.concat_str(pl.lit("cycognito:"), pl.col("_id")),
        "AssetName": pl.col("_name"),
        "AssetType": pl.lit(asset_type),
        "AssetOriginalType": pl.col("type"),
        "AssetStatus": pl.col("status"),
        "OwnerName": pl.col("_owner"),
        "Owners": values.one(pl.col("_owner")),
        "Organizations": pl.col("organizations"),
        "Tags": pl.col("tags"),
        "CustomFields": values.present(values.listed(*notes)),
        "Criticality": pl.lit("Unknown"),
        "Environment": pl.lit("Unknown"),
    }


def _rating_columns() -> dict[str, pl.Expr]:
    return {
        "AssetRiskLevel": values.mapped(pl.col("security_rating"), _RISK, "Other"),
        "AssetOriginalRiskLevel": pl.col("security_rating"),
        "OpenFindings": pl.col("issues_count"),
        "SevereFindings": pl.col("severe_issues_count"),
        "FirstSeen": values.instant(pl.col("first_seen")),
        "LastSeen": values.instant(pl.col("last_seen")),
    }


def _name(identifier: pl.Expr) -> pl.Expr:
    """What follows the kind in an identifier; the identifier itself when it names no kind."""
    rest = identifier.str.splitn("/", 2).struct.field("field_1")
    return pl.when(rest != "").then(rest).otherwise(identifier)


def _located(frame: pl.LazyFrame, host: pl.Expr) -> pl.LazyFrame:
    """With the host's address, name and full name, each from the one before: see `values.name`."""
    return (
        frame.with_columns(_host=values.host_of(host))
        .with_columns(_ip=values.ip(pl.col("_host")), _clean=values.clean_name(pl.col("_host")))
        .with_columns(_host_name=values.name(pl.col("_clean")))
        .with_columns(_fqdn=values.fqdn(pl.col("_host_name")))
    )


def _prepared_domain(frame: pl.LazyFrame) -> pl.LazyFrame:
    """With the domain's own name: see `values.name`."""
    named = _identified(frame).with_columns(
        _clean=values.clean_name(pl.coalesce(values.text(pl.col("domain")), pl.col("_name")))
    )
    return named.with_columns(_own=values.name(pl.col("_clean")))


def domains(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Domains, with the addresses that they resolve to and the sub-domains known below them."""
    below = pl.col("sub_domains").list.eval(pl.element().str.strip_prefix("domain/").str.to_lowercase())
    below = below.list.eval(values.text(pl.element()))
    return frame.select(
        RECORD,
        **_asset_columns("Domain"),
        **_rating_columns(),
        DvcFQDN=pl.col("_own"),
        DvcDomain=pl.col("_own"),
        Fqdns=values.joined(values.listed(pl.col("_own")), below),
        DvcIpAddr=values.first(pl.col("ip_names")),
        IpAddresses=values.joined(pl.col("ip_names")),
        Locations=pl.col("locations"),
        IsInternetFacing=pl.lit(value=True),
    )


def _prepared_web_app(frame: pl.LazyFrame) -> pl.LazyFrame:
    return _located(_identified(frame), pl.col("_name"))


def web_apps(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Web applications: named by an address or by a host."""
    return frame.select(
        RECORD,
        **_asset_columns("Web Application"),
        **_rating_columns(),
        DvcHostname=values.hostname(pl.col("_host_name")),
        DvcDomain=values.domain(pl.col("_fqdn")),
        DvcFQDN=pl.col("_fqdn"),
        Fqdns=values.one(pl.col("_fqdn")),
        DvcIpAddr=pl.col("_ip"),
        IpAddresses=values.one(pl.col("_ip")),
        IsInternetFacing=pl.lit(value=True),
    )


def ip_ranges(frame: pl.LazyFrame) -> pl.LazyFrame:
    """IP ranges: on the internet when something in them answers."""
    return frame.select(
        RECORD,
        **_asset_columns("IP Range"),
        IpRange=pl.col("_name"),
        IsInternetFacing=pl.col("alive"),
    )


def domain_relations(frame: pl.LazyFrame) -> pl.LazyFrame:
    """What domains say of others: owner, organisations, the addresses that they resolve to, the sub-domains known below them."""
    address = values.first(pl.col("ip_names"))
    staged = _from(frame, "ip_names", "sub_domains", fqdn=pl.col("_own"), address=address)
    return relations.rows(
        "cycognito",
        staged,
        [
            *_held(staged),
            _to_assets(relations.each(staged, pl.col("ip_names"), "ip/"), "Resolves To", "ip_names"),
            _to_assets(relations.each(staged, pl.col("sub_domains")), "Contains", "sub_domains"),
        ],
    )


def web_app_relations(frame: pl.LazyFrame) -> pl.LazyFrame:
    """What web applications say of others: owner, organisations, and in their name the address or the domain that they run on."""
    located = frame.with_columns(_end=pl.coalesce(pl.lit("ip/") + pl.col("_ip"), pl.lit("domain/") + pl.col("_fqdn")))
    host = values.hostname(pl.col("_host_name"))
    staged = _from(located, "_end", host=host, fqdn=pl.col("_fqdn"), address=pl.col("_ip"))
    return relations.rows("cycognito", staged, [*_held(staged), _to_assets(staged, "Runs On", "id")])


def ip_range_relations(frame: pl.LazyFrame) -> pl.LazyFrame:
    """What IP ranges say of others: owner and organisations."""
    staged = _from(frame)
    return relations.rows("cycognito", staged, _held(staged))


def _from(identified: pl.LazyFrame, *ends: str, **names: pl.Expr) -> pl.LazyFrame:
    """See `relations.starts`: with owner and organisations, which every kind of asset has."""
    return relations.starts(identified, "_id", "_owner", "organizations", *ends, name=pl.col("_name"), **names)


def _held(staged: pl.LazyFrame) -> list[pl.LazyFrame]:
    used = relations.each(staged, pl.col("organizations"))
    return [
        relations.related(staged, "Owned By", "Owner", said=pl.lit("owned_by"), name=pl.col("_owner")),
        relations.related(used, "Used By", "Owner", said=pl.lit("organizations"), name=pl.col("_end")),
    ]


def _to_assets(ends: pl.LazyFrame, relationship: str, said: str) -> pl.LazyFrame:
    """Relations to the assets whose identifiers are in `_end`, exported or not."""
    end = pl.col("_end")
    return relations.related(ends, relationship, "Asset", said=pl.lit(said), name=_name(end), identifier=end)


def _prepared_issue(frame: pl.LazyFrame) -> pl.LazyFrame:
    """With what several columns are made of: identifiers, the affected asset's names, severity."""
    code = pl.col("issue_id").str.to_uppercase()
    staged = frame.with_columns(
        _id=values.text(pl.col("id")),
        _affected=values.text(pl.col("affected_asset")),
        _cve=pl.when(code.str.contains(r"^CVE-[0-9]{4}-[0-9]{4,}$")).then(code),
        _resolved=values.instant(pl.col("resolved_at")),
        _status=values.text(pl.col("issue_status")),
        _label=values.text(pl.col("severity")),
    ).with_columns(_name=_name(pl.col("_affected")))
    has_host = pl.col("_affected").str.contains(r"^(?:ip|webapp|domain)/")
    located = _located(staged, pl.when(has_host).then(pl.col("_name")))
    return severity.judged(located, severity.CYCOGNITO, [pl.col("_label")], pl.col("severity_score"))


def issues(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Issues, linked to the asset that they affect, which need not be exported."""
    identifier, affected, cve = pl.col("_id"), pl.col("_affected"), pl.col("_cve")
    resolved, status = pl.col("_resolved"), pl.col("_status")
    closed = resolved.is_not_null() | status.str.contains(_CLOSED).fill_null(value=False)
    method = pl.col("exploitation_method").str.to_lowercase()
    return frame.select(
        RECORD,
        *severity.COLUMNS,
        EntityOriginalId=identifier,
        FindingId=pl.concat_str(pl.lit("cycognito:"), identifier),
        AssetId=pl.concat_str(pl.lit("cycognito:"), affected),
        AssetName=pl.col("_name"),
        FindingTitle=pl.col("title"),
        FindingType=values.mapped(pl.col("issue_type"), _FINDING_TYPES, "Other"),
        OriginalFindingType=pl.col("issue_type"),
        DetectionId=pl.col("issue_id"),
        # The vendor writes its summaries' line breaks as " | ".
        Description=pl.col("summary").str.strip_prefix("| ").str.replace_all(" | ", "\n", literal=True),
        Solution=values.present(pl.col("remediation_steps")).list.join("\n"),
        CveId=cve,
        CveIds=values.one(cve),
        RiskScore=pl.col("severity_score"),
        IsExploitAvailable=pl.when(method.str.contains(r"public poc|metasploit"))
        .then(pl.lit(value=True))
        .when(method == "no poc")
        .then(pl.lit(value=False)),
        FindingStatus=pl.when(closed)
        .then(pl.lit("Fixed"))
        .when(status.is_not_null())
        .then(pl.lit("Open"))
        .otherwise(pl.lit("Unknown")),
        OriginalStatus=status,
        DvcHostname=values.hostname(pl.col("_host_name")),
        DvcFQDN=pl.col("_fqdn"),
        DvcIpAddr=pl.col("_ip"),
        OwnerName=values.text(pl.col("owned_by")),
        Organizations=pl.col("organizations"),
        Locations=pl.col("locations"),
        Tags=pl.col("tags"),
        References=pl.col("references"),
        FirstSeen=values.instant(pl.col("first_detected")),
        LastSeen=values.instant(pl.col("last_detected")),
        ResolvedAt=resolved,
    )


_ISSUE: Fields = {
    "id": str,
    "affected_asset": str,
    "title": str,
    "issue_type": str,
    "issue_id": str,
    "issue_status": str,
    "summary": str,
    "remediation_steps": [str],
    "severity": str,
    "severity_score": float,
    "exploitation_method": str,
    "owned_by": str,
    "organizations": [str],
    "locations": [str],
    "tags": [str],
    "references": [str],
    "first_detected": str,
    "last_detected": str,
    "resolved_at": str,
}

_PRODUCT = ("CyCognito", "CyCognito")

TRANSFORMS = (
    Transform(
        "cycognito",
        "domains",
        *_PRODUCT,
        ASSETS,
        _DOMAIN,
        domains,
        _prepared_domain,
    ),
    Transform("cycognito", "web_apps", *_PRODUCT, ASSETS, _WEB_APP, web_apps, _prepared_web_app),
    Transform("cycognito", "ip_ranges", *_PRODUCT, ASSETS, _IP_RANGE, ip_ranges, _identified),
    Transform("cycognito", "issues", *_PRODUCT, FINDINGS, _ISSUE, issues, _prepared_issue),
)

DERIVED = (
    Transform("cycognito", "domain_relations", *_PRODUCT, RELATIONSHIPS, _DOMAIN, domain_relations, _prepared_domain),
    Transform(
        "cycognito", "web_app_relations", *_PRODUCT, RELATIONSHIPS, _WEB_APP, web_app_relations, _prepared_web_app
    ),
    Transform("cycognito", "ip_range_relations", *_PRODUCT, RELATIONSHIPS, _IP_RANGE, ip_range_relations, _identified),
)
