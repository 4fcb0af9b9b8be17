"""CyCognito's records as rows: domains, web applications and IP ranges are assets that were found from the internet; issues are findings.

An identifier is `<kind>/<name>`; an issue's `affected_asset` has the same form and also names kinds that no stream exports (ip, cert).
"""

from __future__ import annotations

import polars as pl

from sentinel.tables import ASSETS, FINDINGS
from transforms import severity, values
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


def _asset_columns(asset_type: str) -> dict[str, pl.Expr]:
    identifier = values.text(pl.col("id"))
    notes = [
        pl.when(values.text(pl.col(field)).is_not_null()).then(pl.concat_str(pl.lit(f"{field}="), pl.col(field)))
        for field in ("hosting_type", "investigation_status", "comment")
    ]
    return {
        "EntityOriginalId": identifier,
        "AssetId": pl.concat_str(pl.lit("cycognito:"), identifier),
        "AssetName": _name(identifier),
        "AssetType": pl.lit(asset_type),
        "AssetOriginalType": pl.col("type"),
        "AssetStatus": pl.col("status"),
        "OwnerName": values.text(pl.col("owned_by")),
        "Owners": values.one(pl.col("owned_by")),
        "Organizations": pl.col("organizations"),
        "Tags": pl.col("tags"),
        "CustomFields": values.one(*notes),
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
    return pl.coalesce(identifier.str.extract(r"^[^/]+/(.+)$", 1), identifier)


def domains(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Domains, with the addresses that they resolve to and the sub-domains known below them."""
    own = values.name(pl.coalesce(values.text(pl.col("domain")), _name(pl.col("id"))))
    below = pl.col("sub_domains").list.eval(pl.element().str.extract(r"^(?:domain/)?(.+)$", 1).str.to_lowercase())
    return frame.select(
        RECORD,
        **_asset_columns("Domain"),
        **_rating_columns(),
        DvcFQDN=own,
        DvcDomain=own,
        Fqdns=values.joined(pl.concat_list(own), below),
        DvcIpAddr=values.first(pl.col("ip_names")),
        IpAddresses=values.joined(pl.col("ip_names")),
        Locations=pl.col("locations"),
        IsInternetFacing=pl.lit(value=True),
    )


def web_apps(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Web applications: named by an address or by a host."""
    host = values.host_of(_name(pl.col("id")))
    return frame.select(
        RECORD,
        **_asset_columns("Web Application"),
        **_rating_columns(),
        DvcHostname=values.hostname(host),
        DvcDomain=values.domain(host),
        DvcFQDN=values.fqdn(host),
        Fqdns=values.one(values.fqdn(host)),
        DvcIpAddr=values.ip(host),
        IpAddresses=values.one(values.ip(host)),
        IsInternetFacing=pl.lit(value=True),
    )


def ip_ranges(frame: pl.LazyFrame) -> pl.LazyFrame:
    """IP ranges: on the internet when something in them answers."""
    return frame.select(
        RECORD,
        **_asset_columns("IP Range"),
        IpRange=_name(values.text(pl.col("id"))),
        IsInternetFacing=pl.col("alive"),
    )


def issues(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Issues, linked to the asset that they affect, which need not be exported."""
    identifier = values.text(pl.col("id"))
    affected = values.text(pl.col("affected_asset"))
    host = pl.when(affected.str.contains(r"^(?:ip|webapp|domain)/")).then(values.host_of(_name(affected)))
    cve = pl.col("issue_id").str.to_uppercase().str.extract(r"^(CVE-\d{4}-\d{4,})$", 1)
    resolved = values.instant(pl.col("resolved_at"))
    status = values.text(pl.col("issue_status"))
    closed = resolved.is_not_null() | status.str.contains(_CLOSED).fill_null(value=False)
    method = pl.col("exploitation_method").str.to_lowercase()
    return frame.select(
        RECORD,
        EntityOriginalId=identifier,
        FindingId=pl.concat_str(pl.lit("cycognito:"), identifier),
        AssetId=pl.concat_str(pl.lit("cycognito:"), affected),
        AssetName=_name(affected),
        FindingTitle=pl.col("title"),
        FindingType=values.mapped(pl.col("issue_type"), _FINDING_TYPES, "Other").fill_null("Other"),
        OriginalFindingType=pl.col("issue_type"),
        DetectionId=pl.col("issue_id"),
        # The vendor writes its summaries' line breaks as " | ".
        Description=pl.col("summary").str.strip_prefix("| ").str.replace_all(" | ", "\n", literal=True),
        Solution=pl.col("remediation_steps").list.drop_nulls().list.join("\n"),
        **severity.columns(severity.CYCOGNITO, [values.text(pl.col("severity"))], pl.col("severity_score")),
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
        DvcHostname=values.hostname(host),
        DvcFQDN=values.fqdn(host),
        DvcIpAddr=values.ip(host),
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
        {**_ASSET, **_RATED, "domain": str, "ip_names": [str], "sub_domains": [str], "locations": [str]},
        domains,
    ),
    Transform("cycognito", "web_apps", *_PRODUCT, ASSETS, {**_ASSET, **_RATED}, web_apps),
    Transform("cycognito", "ip_ranges", *_PRODUCT, ASSETS, {**_ASSET, "alive": bool}, ip_ranges),
    Transform("cycognito", "issues", *_PRODUCT, FINDINGS, _ISSUE, issues),
)
