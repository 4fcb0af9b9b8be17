"""`CAASM_Relationships_CL`: what an asset has to do with another asset, an owner, a piece of software, a network."""

from __future__ import annotations

from typing import Final

from sentinel.contract import Column, Table
from sentinel.tables.envelope import ENVELOPE, FIELDS_TRUNCATED, SOURCE_UPDATED_AT

RELATIONSHIPS: Final = Table(
    name="CAASM_Relationships_CL",
    stream="Custom-CAASM_Relationships",
    key="RelationshipId",
    description="One row per relation and run: an asset and another asset, an owner, a piece of software, a network.",
    columns=(
        *ENVELOPE,
        Column(
            "RelationshipId",
            "string",
            "Key of the relation: <source>:<FromId without its source>|<RelationshipType>|<ToType>|<the product's identifier or name of the other end>. Stable between runs.",
            "tenable:5f0e5d2c-7c0a-4c1e-9f39-2f1d0b7f6a11|Has Software|Software|cpe:/a:openbsd:openssh:9.2",
        ),
        Column(
            "RelationshipType",
            "string",
            "From reads it to To: Owned By, Used By, Has Software, Connected To, In Network, Runs On, Resolves To, Contains, Depends On, Member Of or Related To.",
            "Has Software",
        ),
        Column("OriginalRelationshipType", "string", "The relation in the product's own words.", "installed_software"),
        Column(
            "FromId",
            "string",
            "Where the relation starts; joins to AssetId of CAASM_Assets_CL when FromType is Asset.",
            "tenable:5f0e5d2c-7c0a-4c1e-9f39-2f1d0b7f6a11",
        ),
        Column("FromType", "string", "Asset, Owner, Software, Network, Cloud Account, Service or Other.", "Asset"),
        Column("FromName", "string", "The name that a person would call that end by.", "web-07"),
        Column(
            "ToId",
            "string",
            "Where it ends: <source>:<the product's identifier>, which is an AssetId when ToType is Asset; absent when the product only names it.",
            "tenable:cpe:/a:openbsd:openssh:9.2",
        ),
        Column("ToType", "string", "Asset, Owner, Software, Network, Cloud Account, Service or Other.", "Software"),
        Column(
            "ToName",
            "string",
            "The name of that end: host name, user name, software title, network in CIDR.",
            "OpenSSH",
        ),
        Column("ToVersion", "string", "Version of the software at that end.", "9.2"),
        Column(
            "DvcHostname",
            "string",
            "Short host name of the asset where it starts, lower case.",
            "web-07",
            asim="DvcHostname",
        ),
        Column(
            "DvcFQDN",
            "string",
            "Fully qualified name of that asset, lower case.",
            "web-07.corp.example.com",
            asim="DvcFQDN",
        ),
        Column(
            "DvcIpAddr",
            "string",
            "IP address of that asset; of a connection, its local address.",
            "10.20.30.40",
            asim="DvcIpAddr",
        ),
        Column("Port", "int", "Port of the connection or service at the far end; absent when there is none.", 443),
        Column("Protocol", "string", "Transport protocol, lower case.", "tcp"),
        Column(
            "Attributes", "dynamic", "What else the product says of the relation, as key=value.", ("installed_by=apt",)
        ),
        Column("FirstSeen", "datetime", "When the product first saw the relation.", "2026-02-11T08:15:00.000000Z"),
        Column("LastSeen", "datetime", "When the product last saw it.", "2026-11-19T22:41:07.000000Z", hashed=False),
        SOURCE_UPDATED_AT,
        FIELDS_TRUNCATED,
    ),
)
