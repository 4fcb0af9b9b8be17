"""`CAASM_Assets_CL`: what an asset is, where it is, who owns it, what protects it, how exposed it is."""

from __future__ import annotations

from typing import Final

from sentinel.contract import Column, Table
from sentinel.tables.envelope import ENVELOPE, FIELDS_TRUNCATED, SOURCE_UPDATED_AT

ASSETS: Final = Table(
    name="CAASM_Assets_CL",
    stream="Custom-CAASM_Assets",
    key="AssetId",
    description="One row per asset and run: what it is, where it is, who owns it, what protects it, how exposed it is.",
    columns=(
        *ENVELOPE,
        Column(
            "AssetId",
            "string",
            "Key of the asset: <source>:<the product's identifier>. Stable between runs.",
            "tenable:5f0e5d2c-7c0a-4c1e-9f39-2f1d0b7f6a11",
        ),
        Column("AssetName", "string", "The name that a person would call it by.", "web-07"),
        Column(
            "AssetType",
            "string",
            "Computer, Virtual Machine, Mobile Device, Network Device, IOT Device, Domain, Web Application, IP Range, Cluster or Other.",
            "Virtual Machine",
            asim="DeviceType",
        ),
        Column(
            "AssetOriginalType",
            "string",
            "The type in the product's own words.",
            "aws-ec2-instance",
            asim="AssetOriginalType",
        ),
        Column("AssetStatus", "string", "The product's life-cycle or review state, in its own words.", "active"),
        Column("DvcHostname", "string", "Short host name, without a domain, lower case.", "web-07", asim="DvcHostname"),
        Column("DvcDomain", "string", "Domain of the host, lower case.", "corp.example.com", asim="DvcDomain"),
        Column("DvcFQDN", "string", "Fully qualified name, lower case.", "web-07.corp.example.com", asim="DvcFQDN"),
        Column(
            "DvcIpAddr",
            "string",
            "The best single IP address; all of them are in IpAddresses.",
            "10.20.30.40",
            asim="DvcIpAddr",
        ),
        Column(
            "DvcMacAddr",
            "string",
            "The best single MAC address, upper case with colons; all of them are in MacAddresses.",
            "00:1A:2B:3C:4D:5E",
            asim="DvcMacAddr",
        ),
        Column("DvcOs", "string", "Operating system.", "Linux Kernel 6.1 on Debian 12", asim="DvcOs"),
        Column("DvcOsVersion", "string", "Version of the operating system.", "12.8", asim="DvcOsVersion"),
        Column("DvcZone", "string", "Network or zone that the asset is in.", "dmz-eu", asim="DvcZone"),
        Column("Hostnames", "dynamic", "Every host name and alias known, as given.", ("web-07", "WEB-07")),
        Column("Fqdns", "dynamic", "Every fully qualified name known, lower case.", ("web-07.corp.example.com",)),
        Column("IpAddresses", "dynamic", "Every IP address known.", ("10.20.30.40", "198.51.100.7")),
        Column("MacAddresses", "dynamic", "Every MAC address known, upper case with colons.", ("00:1A:2B:3C:4D:5E",)),
        Column("Subnets", "dynamic", "Networks that the addresses belong to.", ("10.20.30.0/24",)),
        Column(
            "IpRange",
            "string",
            "First and last address of an IP range, with a dash between them.",
            "198.51.100.0-198.51.100.15",
        ),
        Column("SerialNumber", "string", "Serial number of the hardware.", "VMW-42-0007"),
        Column("HardwareUuid", "string", "BIOS or hardware UUID, lower case.", "4c4c4544-0042-3510-8054-b7c04f4d3232"),
        Column("AgentId", "string", "Identifier of the product's agent on the asset.", "1d6c1f0e2b7a4f6c"),
        Column("Manufacturer", "string", "Maker of the hardware.", "Dell Inc."),
        Column("Model", "string", "Model of the hardware.", "PowerEdge R650"),
        Column("CloudProvider", "string", "AWS, Azure, GCP or another provider's name.", "AWS"),
        Column(
            "CloudAccountId",
            "string",
            "Account, subscription or project that owns the resource.",
            "123456789012",
            asim="DvcScopeId",
        ),
        Column("CloudRegion", "string", "Region or zone of the resource.", "eu-central-1"),
        Column(
            "CloudResourceId",
            "string",
            "Resource or instance identifier at the provider.",
            "i-0abcd1234ef567890",
            asim="DvcId",
        ),
        Column("CloudNetworkId", "string", "Virtual network of the resource at the provider.", "vpc-0a1b2c3d"),
        Column(
            "OwnerName",
            "string",
            "The owner: a user name without its domain, a team, or an organisation.",
            "alice.meyer",
            asim="Username",
        ),
        Column(
            "OwnerUpnSuffix", "string", "What follows the @ when the owner is a user principal name.", "example.com"
        ),
        Column("Owners", "dynamic", "Every owner known, as given.", ("alice.meyer@example.com", "Web Platform")),
        Column("Organizations", "dynamic", "Business units or organisations that the asset belongs to.", ("Retail",)),
        Column(
            "Criticality",
            "string",
            "Critical, High, Medium, Low or Unknown: how much the business depends on it.",
            "Critical",
        ),
        Column("OriginalCriticality", "string", "The text or rating that Criticality was read from.", "9"),
        Column(
            "Environment",
            "string",
            "Production, Staging, Development, Test, Disaster Recovery, Other or Unknown.",
            "Production",
        ),
        Column("OriginalEnvironment", "string", "The text that Environment was read from.", "prod"),
        Column("Tags", "dynamic", "Tags; key=value where the product has keys.", ("env=prod", "team=web-platform")),
        Column("CustomFields", "dynamic", "Custom fields that have a value, as key=value.", ("Cost Center=4711",)),
        Column(
            "HasEdr",
            "boolean",
            "An endpoint detection agent covers the asset; absent when the product cannot tell.",
            False,
        ),
        Column(
            "HasVulnerabilityScanner",
            "boolean",
            "A vulnerability scanner has seen the asset; absent when the product cannot tell.",
            True,
        ),
        Column("HasBackup", "boolean", "The asset is backed up; absent when the product cannot tell.", True),
        Column("HasMdm", "boolean", "Device management covers the asset; absent when the product cannot tell.", False),
        Column("SecurityTools", "dynamic", "Security tools known to cover the asset.", ("Nessus Agent",)),
        Column(
            "IsInternetFacing", "boolean", "Reachable from the internet; absent when the product cannot tell.", True
        ),
        Column("Locations", "dynamic", "Where the asset is, as the product says (country codes, sites).", ("DE",)),
        Column(
            "AssetRiskLevel", "string", "Info, Low, Medium, High, Critical or Other.", "High", asim="AssetRiskLevel"
        ),
        Column(
            "AssetOriginalRiskLevel",
            "string",
            "The product's own rating, as text.",
            "7.8",
            asim="AssetOriginalRiskLevel",
        ),
        Column("RiskScore", "real", "The product's own score, on its own scale.", 780.0),
        Column("OpenFindings", "int", "Open findings that the product counts on the asset.", 12),
        Column("SevereFindings", "int", "Of these, the severe ones.", 3),
        Column(
            "Software",
            "dynamic",
            "Installed software: CPE names or names with versions.",
            ("cpe:/a:openbsd:openssh:9.2",),
        ),
        Column("FirstSeen", "datetime", "When the product first saw the asset.", "2026-02-11T08:15:00.000000Z"),
        Column(
            "LastSeen", "datetime", "When the product last saw the asset.", "2026-11-19T22:41:07.000000Z", hashed=False
        ),
        SOURCE_UPDATED_AT,
        FIELDS_TRUNCATED,
    ),
)
