"""Tenable Vulnerability Management's records as rows: assets as the scanners see them, vulnerabilities as findings on them.

Old exports give findings no identifier; what makes one unique is then the asset, the plugin, the port and the protocol. `acr_score` is the
Asset Criticality Rating, 1 to 10: 9 and 10 are critical, 7 and 8 high, 4 to 6 medium, 1 to 3 low (Tenable, Lumin metrics).
"""

from __future__ import annotations

import polars as pl

from sentinel.tables import ASSETS, FINDINGS, RELATIONSHIPS
from transforms import relations, severity, values
from transforms.decode import RECORD, Fields
from transforms.rows import Transform

_CRITICALITY = ((9.0, "Critical"), (7.0, "High"), (4.0, "Medium"), (1.0, "Low"))

_TOOLS = {
    "nessus_agent": "Nessus Agent",
    "nessus_scan": "Nessus",
    "pvs": "Nessus Network Monitor",
    "was": "Tenable Web App Scanning",
}

_DEFAULT_NETWORK = "00000000-0000-0000-0000-000000000000"
"""Where every asset is that nobody has put into a network."""

_ASSET: Fields = {
    "id": str,
    "has_agent": bool,
    "has_plugin_results": bool,
    "terminated_at": str,
    "deleted_at": str,
    "updated_at": str,
    "first_seen": str,
    "last_seen": str,
    "azure_vm_id": str,
    "azure_resource_id": str,
    "gcp_project_id": str,
    "gcp_zone": str,
    "gcp_instance_id": str,
    "aws_ec2_instance_id": str,
    "aws_owner_id": str,
    "aws_region": str,
    "aws_availability_zone": str,
    "aws_vpc_id": str,
    "aws_ec2_name": str,
    "agent_uuid": str,
    "bios_uuid": str,
    "network_id": str,
    "network_name": str,
    "mcafee_epo_agent_guid": str,
    "symantec_ep_hardware_keys": [str],
    "bigfix_asset_id": str,
    "agent_names": [str],
    "installed_software": [str],
    "ipv4s": [str],
    "ipv6s": [str],
    "fqdns": [str],
    "mac_addresses": [str],
    "netbios_names": [str],
    "operating_systems": [str],
    "system_types": [str],
    "hostnames": [str],
    "sources": [{"name": str}],
    "tags": [{"key": str, "value": str}],
    "acr_score": float,
    "exposure_score": float,
}

_VULNERABILITY: Fields = {
    "finding_id": str,
    "asset": {
        "uuid": str,
        "fqdn": str,
        "hostname": str,
        "netbios_name": str,
        "ipv4": str,
        "operating_system": [str],
    },
    "output": str,
    "plugin": {
        "id": int,
        "name": str,
        "family": str,
        "synopsis": str,
        "description": str,
        "solution": str,
        "risk_factor": str,
        "cve": [str],
        "cvss_base_score": float,
        "cvss3_base_score": float,
        "cvss_vector": {"raw": str},
        "cvss3_vector": {"raw": str},
        "vpr": {"score": float},
        "exploit_available": bool,
        "exploited_by_malware": bool,
        "see_also": [str],
        "xrefs": [{"type": str}],
    },
    "port": {"port": int, "protocol": str},
    "severity": str,
    "severity_id": float,
    "severity_modification_type": str,
    "state": str,
    "first_found": str,
    "last_found": str,
    "last_fixed": str,
    "indexed": str,
}


def _asset_types(kinds: pl.Series) -> pl.Series:
    kind = pl.lit(kinds)
    found = (
        pl.when(kind.str.contains(r"router|switch|firewall|load-balancer|wireless"))
        .then(pl.lit("Network Device"))
        .when(kind.str.contains(r"instance|virtual"))
        .then(pl.lit("Virtual Machine"))
        .when(kind.str.contains("mobile"))
        .then(pl.lit("Mobile Device"))
        .when(kind.str.contains(r"embedded|printer|camera|scada|voip"))
        .then(pl.lit("IOT Device"))
        .when(kind.str.contains(r"general-purpose|hypervisor"))
        .then(pl.lit("Computer"))
        .otherwise(pl.lit("Other"))
    )
    return pl.select(found).to_series()


def _prepared_asset(frame: pl.LazyFrame) -> pl.LazyFrame:
    """With what several columns are made of: names, addresses, cloud identifiers, each step from the one before (see `values.name`)."""
    full_names = (
        pl.col("fqdns")
        .list.eval(values.clean_name(pl.element()))
        .list.eval(values.name(pl.element()))
        .list.eval(values.fqdn(pl.element()))
    )
    return (
        frame.with_columns(
            _id=values.text(pl.col("id")),
            _host=pl.coalesce(values.first(pl.col(name)) for name in ("hostnames", "netbios_names", "agent_names")),
            _fqdns=values.present(full_names),
            _addresses=values.joined(pl.col("ipv4s"), pl.col("ipv6s")),
            _macs=values.distinct(values.present(pl.col("mac_addresses").list.eval(values.mac(pl.element())))),
            _azure=pl.coalesce(values.text(pl.col("azure_resource_id")), values.text(pl.col("azure_vm_id"))),
            _aws=values.text(pl.col("aws_ec2_instance_id")),
            _gcp=values.text(pl.col("gcp_instance_id")),
            _kinds=values.present(pl.col("system_types")).list.join(",").str.to_lowercase(),
            _environment=_tag_value(r"^(?:environment|env)$"),
            _gone=pl.col("deleted_at").is_not_null() | pl.col("terminated_at").is_not_null(),
        )
        .with_columns(_fqdn=pl.col("_fqdns").list.first())
        .with_columns(
            _name=pl.coalesce(
                pl.col("_fqdn"),
                values.text(pl.col("_host")),
                values.text(pl.col("aws_ec2_name")),
                pl.col("_addresses").list.first(),
                pl.col("_id"),
            )
        )
        .with_columns(_clean=values.clean_name(pl.coalesce("_host", "_fqdn")))
        .with_columns(_host_name=values.name(pl.col("_clean")))
    )


def _accounts() -> dict[str, pl.Expr]:
    """The cloud account by the field that names it, in the order in which they count."""
    subscription = pl.col("_azure").str.extract(r"(?i)^/subscriptions/([^/]+)", 1)
    return {"azure_resource_id": subscription} | {
        name: values.text(pl.col(name)) for name in ("aws_owner_id", "gcp_project_id")
    }


def assets(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Assets, one row each; those that Tenable says are deleted or terminated come with EntityIsDeleted."""
    identifier, fqdns = pl.col("_id"), pl.col("_fqdns")
    addresses, macs = pl.col("_addresses"), pl.col("_macs")
    tool = values.mapped(pl.element().struct.field("name"), _TOOLS, None)
    foreign_agent = values.text(pl.col("mcafee_epo_agent_guid")).is_not_null() | (
        pl.col("symantec_ep_hardware_keys").list.len() > 0
    )
    tag = pl.concat_str(pl.element().struct.field("key"), pl.lit("="), pl.element().struct.field("value"))
    azure, aws, gcp, kinds = pl.col("_azure"), pl.col("_aws"), pl.col("_gcp"), pl.col("_kinds")
    score = pl.col("acr_score")
    tagged = pl.col("_environment")
    return frame.select(
        RECORD,
        EntityOriginalId=identifier,
        EntityIsDeleted=pl.col("_gone"),
        AssetId=pl.concat_str(pl.lit("tenable:"), identifier),
        AssetName=pl.col("_name"),
        AssetType=values.once_each(kinds, _asset_types),
        AssetOriginalType=pl.when(kinds != "").then(kinds),
        AssetStatus=pl.when(pl.col("deleted_at").is_not_null())
        .then(pl.lit("deleted"))
        .when(pl.col("terminated_at").is_not_null())
        .then(pl.lit("terminated"))
        .otherwise(pl.lit("active")),
        DvcHostname=values.hostname(pl.col("_host_name")),
        DvcDomain=values.domain(pl.col("_fqdn")),
        DvcFQDN=pl.col("_fqdn"),
        Hostnames=values.joined(pl.col("hostnames"), pl.col("netbios_names"), pl.col("agent_names")),
        Fqdns=values.distinct(fqdns),
        DvcIpAddr=addresses.list.first(),
        IpAddresses=addresses,
        DvcMacAddr=macs.list.first(),
        MacAddresses=macs,
        DvcOs=values.first(pl.col("operating_systems")),
        DvcZone=values.text(pl.col("network_name")),
        HardwareUuid=values.text(pl.col("bios_uuid")).str.to_lowercase(),
        AgentId=values.text(pl.col("agent_uuid")),
        CloudProvider=pl.when(azure.is_not_null())
        .then(pl.lit("Azure"))
        .when(aws.is_not_null())
        .then(pl.lit("AWS"))
        .when(gcp.is_not_null())
        .then(pl.lit("GCP")),
        CloudAccountId=pl.coalesce(*_accounts().values()),
        CloudRegion=pl.coalesce(pl.col("aws_region"), pl.col("aws_availability_zone"), pl.col("gcp_zone")),
        CloudResourceId=pl.coalesce(azure, aws, gcp),
        CloudNetworkId=pl.col("aws_vpc_id"),
        Criticality=severity.level_of_number(score, _CRITICALITY).fill_null("Unknown"),
        OriginalCriticality=score.cast(pl.String).str.strip_suffix(".0"),
        Environment=values.environment(tagged),
        OriginalEnvironment=tagged,
        Tags=values.present(pl.col("tags").list.eval(tag)),
        HasEdr=pl.when(foreign_agent).then(pl.lit(value=True)),
        HasVulnerabilityScanner=pl.col("has_plugin_results") | pl.col("has_agent"),
        SecurityTools=values.distinct(values.present(pl.col("sources").list.eval(tool))),
        RiskScore=pl.col("exposure_score"),
        Software=pl.col("installed_software"),
        FirstSeen=values.instant(pl.col("first_seen")),
        LastSeen=values.instant(pl.col("last_seen")),
        SourceUpdatedAt=values.instant(pl.col("updated_at")),
    )


def asset_relations(frame: pl.LazyFrame) -> pl.LazyFrame:
    """What assets say of others: the network of Tenable's (unless it is the default one) and the VPC that they are in, the cloud account."""
    network, accounts = values.text(pl.col("network_id")), _accounts()
    default = pl.coalesce(
        network == _DEFAULT_NETWORK, values.text(pl.col("network_name")).str.to_lowercase() == "default"
    )
    elsewhere = pl.when(~default)
    staged = relations.starts(
        frame,
        "_id",
        name=pl.col("_name"),
        host=values.hostname(pl.col("_host_name")),
        fqdn=pl.col("_fqdn"),
        address=pl.col("_addresses").list.first(),
        updated=values.instant(pl.col("updated_at")),
        _network=elsewhere.then(pl.lit("network/") + network),
        _network_name=elsewhere.then(values.text(pl.col("network_name"))),
        _vpc=values.text(pl.col("aws_vpc_id")),
        _account=pl.coalesce(*accounts.values()),
        _account_in=pl.coalesce(*(pl.when(of.is_not_null()).then(pl.lit(name)) for name, of in accounts.items())),
        EntityIsDeleted=pl.col("_gone"),
    )
    kinds = [
        relations.related(
            staged,
            "In Network",
            "Network",
            said=pl.lit("network"),
            name=pl.col("_network_name"),
            identifier=pl.col("_network"),
        ),
        relations.related(staged, "In Network", "Network", said=pl.lit("aws_vpc_id"), name=pl.col("_vpc")),
        relations.related(staged, "Member Of", "Cloud Account", said=pl.col("_account_in"), name=pl.col("_account")),
    ]
    return relations.rows("tenable", staged, kinds)


def _tag_value(pattern: str) -> pl.Expr:
    key = pl.element().struct.field("key").str.to_lowercase()
    matching = pl.when(key.str.contains(pattern)).then(values.text(pl.element().struct.field("value")))
    return values.first(pl.col("tags").list.eval(matching))


def _prepared_vulnerability(frame: pl.LazyFrame) -> pl.LazyFrame:
    """With what several columns are made of: the asset's names, CVEs, the words for severity."""
    asset, plugin, port = pl.col("asset").struct, pl.col("plugin").struct, pl.col("port").struct
    composite = pl.concat_str(
        pl.col("_owner"),
        plugin.field("id").cast(pl.String),
        port.field("port").cast(pl.String).fill_null("0"),
        port.field("protocol").str.to_lowercase().fill_null(""),
        separator="/",
    )
    named = (
        frame.with_columns(
            _owner=values.text(asset.field("uuid")),
            _clean=values.clean_name(asset.field("hostname")),
            _clean_fqdn=values.clean_name(asset.field("fqdn")),
            _cves=values.joined(plugin.field("cve")),
            _label=values.text(pl.col("severity")),
            _risk=values.text(plugin.field("risk_factor")),
            _score=pl.coalesce(plugin.field("cvss3_base_score"), plugin.field("cvss_base_score")),
        )
        .with_columns(
            _identifier=pl.coalesce(values.text(pl.col("finding_id")), composite),
            _fqdn=values.name(pl.col("_clean_fqdn")),
            _host_name=values.name(pl.col("_clean")),
        )
        .with_columns(
            _fqdn=values.fqdn(pl.col("_fqdn")),
            _host_name=pl.coalesce(pl.col("_host_name"), values.clean_name(asset.field("netbios_name"))),
        )
        .with_columns(_host_name=values.name(pl.col("_host_name")))
    )
    labels = [pl.col("_label"), pl.col("_risk")]
    return severity.judged(named, severity.TENABLE, labels, pl.col("severity_id"), pl.col("_score"))


def vulnerabilities(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Vulnerabilities, one row each, also those on assets that the asset export does not have."""
    asset, plugin, port = pl.col("asset").struct, pl.col("plugin").struct, pl.col("port").struct
    owner = pl.col("_owner")
    identifier = pl.col("_identifier")
    full_name = pl.col("_fqdn")
    cvss3, cvss2 = plugin.field("cvss3_base_score"), plugin.field("cvss_base_score")
    cves = pl.col("_cves")
    exploited = plugin.field("exploited_by_malware")
    listed = (
        plugin.field("xrefs")
        .list.eval(pl.element().struct.field("type").str.contains(r"(?i)^CISA-KNOWN-EXPLOITED$"))
        .list.any()
    )
    state = pl.col("state").str.to_uppercase()
    accepted = pl.col("severity_modification_type").str.to_uppercase() == "ACCEPTED"
    number = port.field("port")
    return frame.select(
        RECORD,
        *severity.COLUMNS,
        EntityOriginalId=identifier,
        FindingId=pl.concat_str(pl.lit("tenable:"), identifier),
        AssetId=pl.concat_str(pl.lit("tenable:"), owner),
        AssetName=pl.coalesce(full_name, values.text(asset.field("hostname")), asset.field("ipv4")),
        FindingTitle=plugin.field("name"),
        FindingType=_finding_type(plugin.field("family"), pl.col("Severity"), cves),
        OriginalFindingType=plugin.field("family"),
        DetectionId=plugin.field("id").cast(pl.String),
        Description=pl.concat_str(
            values.text(plugin.field("synopsis")),
            values.text(plugin.field("description")),
            separator="\n\n",
            ignore_nulls=True,
        ),
        Solution=plugin.field("solution"),
        Evidence=values.text(pl.col("output")),
        CveId=cves.list.first(),
        CveIds=cves,
        CvssScore=pl.col("_score"),
        CvssVersion=pl.when(cvss3.is_not_null()).then(pl.lit("3")).when(cvss2.is_not_null()).then(pl.lit("2")),
        CvssVector=pl.when(cvss3.is_not_null())
        .then(plugin.field("cvss3_vector").struct.field("raw"))
        .otherwise(plugin.field("cvss_vector").struct.field("raw")),
        RiskScore=plugin.field("vpr").struct.field("score"),
        IsKnownExploited=pl.when(listed | exploited).then(pl.lit(value=True)).otherwise(exploited),
        IsExploitAvailable=plugin.field("exploit_available"),
        FindingStatus=pl.when(accepted)
        .then(pl.lit("Accepted"))
        .when(state.is_in(["OPEN", "REOPENED"]))
        .then(pl.lit("Open"))
        .when(state == "FIXED")
        .then(pl.lit("Fixed"))
        .otherwise(pl.lit("Unknown")),
        OriginalStatus=pl.col("state"),
        Port=pl.when(number > 0).then(number),
        Protocol=port.field("protocol").str.to_lowercase(),
        DvcHostname=values.hostname(pl.col("_host_name")),
        DvcFQDN=full_name,
        DvcIpAddr=values.text(asset.field("ipv4")),
        DvcOs=values.first(asset.field("operating_system")),
        References=plugin.field("see_also"),
        FirstSeen=values.instant(pl.col("first_found")),
        LastSeen=values.instant(pl.col("last_found")),
        ResolvedAt=values.instant(pl.col("last_fixed")),
        SourceUpdatedAt=values.instant(pl.col("indexed")),
    )


def _finding_type(family: pl.Expr, level: pl.Expr, cves: pl.Expr) -> pl.Expr:
    return (
        pl.when(family.str.contains(r"(?i)policy compliance"))
        .then(pl.lit("Misconfiguration"))
        .when((level == "Informational") & cves.is_null())
        .then(pl.lit("Information"))
        .otherwise(pl.lit("Vulnerability"))
    )


_PRODUCT = ("Tenable", "Tenable Vulnerability Management")

TRANSFORMS = (
    Transform("tenable", "assets", *_PRODUCT, ASSETS, _ASSET, assets, _prepared_asset),
    Transform(
        "tenable", "vulnerabilities", *_PRODUCT, FINDINGS, _VULNERABILITY, vulnerabilities, _prepared_vulnerability
    ),
)

DERIVED = (Transform("tenable", "relations", *_PRODUCT, RELATIONSHIPS, _ASSET, asset_relations, _prepared_asset),)
