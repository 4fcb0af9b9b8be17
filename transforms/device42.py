"""Device42's devices as rows: hardware, virtual machines, clusters, with what custom fields say about owners, criticality and coverage.

Custom fields are {key, value} pairs that every customer names differently; a field is read when its name says what it is, and every one with a
value is kept in CustomFields.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from sentinel.tables import ASSETS, RELATIONSHIPS
from transforms import coverage, relations, values
from transforms.decode import RECORD, Fields
from transforms.rows import Transform

_TYPES = {
    "physical": "Computer",
    "blade": "Computer",
    "virtual": "Virtual Machine",
    "cluster": "Cluster",
    "mobile": "Mobile Device",
}

_CLOUDS = {
    "amazon ec2 instance": "AWS",
    "azure cloud service": "Azure",
    "azure virtual machine": "Azure",
    "google cloud instance": "GCP",
    "google compute engine": "GCP",
    "digitalocean instance": "DigitalOcean",
}

_ROLES = {
    "owner": r"^(?:owner|owner name|asset owner|system owner|technical owner)$",
    "environment": r"^(?:env|environment)$",
    "criticality": r"criticality|^tier$",
    "exposed": r"^internet[ _-]?facing$",
}
"""What a custom field's name, lower case, says that it is; no name is two of them."""

_EVERYWHERE = r"(?:^|-)(?:0\.0\.0\.0|::)/0(?:\(|$)"

_CIDR = r"(?:^|-)([0-9A-Fa-f]*[.:][0-9A-Fa-f.:]*/[0-9]{1,3})(?:\(|$)"

_EXPOSED = r"^(?i:internet[ _-]?facing|public[ _-]?facing|externally exposed|external|dmz)$"

_DEVICE: Fields = {
    "id": int,
    "device_id": int,
    "name": str,
    "type": str,
    "device_sub_type": str,
    "virtual_subtype": str,
    "is_it_switch": str,
    "in_service": bool,
    "service_level": str,
    "customer": str,
    "customer_id": int,
    "virtual_host_name": str,
    "blade_host_id": int,
    "blade_host_name": str,
    "os": str,
    "osver": str,
    "osverno": str,
    "aliases": [str],
    "tags": [str],
    "ip_addresses": [{"ip": str, "subnet": str, "subnet_id": int, "macaddress": str}],
    "mac_addresses": [{"mac": str}],
    "custom_fields": [{"key": str, "value": str}],
    "serial_no": str,
    "uuid": str,
    "manufacturer": str,
    "hw_model": str,
    "building": str,
    "room": str,
    "rack": str,
    "last_updated": str,
}


def _custom(role: str, part: str = "value") -> pl.Expr:
    """The value (or another part) of the first custom field (of those with a value) whose name has that role."""
    return pl.col("_fields").list.filter(pl.element().struct.field("role") == role).list.first().struct.field(part)


def _roles(names: pl.Series) -> pl.Series:
    name = pl.lit(names.str.to_lowercase().str.strip_chars())
    return pl.select(
        pl.coalesce(pl.when(name.str.contains(of)).then(pl.lit(role)) for role, of in _ROLES.items())
    ).to_series()


def _parts(column: str, part: str, made: Callable[[pl.Expr], pl.Expr] = lambda part: part) -> pl.Expr:
    return pl.col(column).list.eval(made(pl.element().struct.field(part)))


def _yes_in(column: str, pattern: str) -> pl.Expr:
    return pl.col(column).list.eval(pl.element().str.strip_chars().str.contains(pattern)).list.any()


def _prepared(frame: pl.LazyFrame) -> pl.LazyFrame:
    """With what several columns are made of: custom fields that have a value, names, addresses.

    Most custom fields have none (4 of 5 in the recordings), so they go before anything is done to the rest.
    """
    key, value = pl.element().struct.field("key"), pl.element().struct.field("value")
    field = pl.struct(key.alias("key"), values.text(value).alias("value"), values.once_each(key, _roles).alias("role"))
    macs = values.united(_parts("mac_addresses", "mac"), _parts("ip_addresses", "macaddress"))
    return (
        frame.with_columns(
            _label=values.text(pl.col("name")),
            _fields=pl.col("custom_fields").list.filter(value.is_not_null()),
            _addresses=values.joined(_parts("ip_addresses", "ip", values.text)),
            _macs=values.joined(macs.list.eval(values.mac(pl.element()))),
        )
        .with_columns(
            _fields=pl.col("_fields").list.eval(field).list.filter(value.is_not_null()),
            _names=values.joined(values.listed(pl.col("_label")), pl.col("aliases")),
        )
        .with_columns(
            _clean=values.clean_name(pl.col("_label")),
            _owner=_custom("owner"),
            _environment=pl.coalesce(_custom("environment"), values.text(pl.col("service_level"))),
            _criticality=_custom("criticality"),
            _exposed=_custom("exposed").str.to_lowercase(),
            _coverage=coverage.verdicts(pl.col("_fields")),
        )
        .with_columns(_host_name=values.name(pl.col("_clean")))
        .with_columns(_fqdn=values.fqdn(pl.col("_host_name")))
    )


def _identifier() -> pl.Expr:
    return pl.coalesce(pl.col("id"), pl.col("device_id")).cast(pl.String)


def devices(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Devices, one row each."""
    identifier = _identifier()
    label, owner = pl.col("_label"), pl.col("_owner")
    environment, criticality, exposed = pl.col("_environment"), pl.col("_criticality"), pl.col("_exposed")
    network = pl.col("is_it_switch").str.to_lowercase() == "yes"
    full_names = (
        pl.col("_names")
        .list.eval(values.clean_name(pl.element()))
        .list.eval(values.name(pl.element()))
        .list.eval(values.fqdn(pl.element()))
    )
    fields = pl.element().struct.field("key"), pl.element().struct.field("value")
    return frame.select(
        RECORD,
        EntityOriginalId=identifier,
        AssetId=pl.concat_str(pl.lit("device42:"), identifier),
        AssetName=label,
        AssetType=pl.when(network)
        .then(pl.lit("Network Device"))
        .otherwise(values.mapped(pl.col("type"), _TYPES, "Other")),
        AssetOriginalType=pl.concat_str(
            pl.col("type"),
            pl.coalesce(pl.col("virtual_subtype"), pl.col("device_sub_type")),
            separator="/",
            ignore_nulls=True,
        ),
        AssetStatus=pl.when(pl.col("in_service"))
        .then(pl.lit("in service"))
        .when(~pl.col("in_service"))
        .then(pl.lit("out of service")),
        DvcHostname=values.hostname(pl.col("_host_name")),
        DvcDomain=values.domain(pl.col("_fqdn")),
        DvcFQDN=pl.col("_fqdn"),
        Hostnames=pl.col("_names"),
        Fqdns=values.distinct(values.present(full_names)),
        DvcIpAddr=pl.col("_addresses").list.first(),
        IpAddresses=pl.col("_addresses"),
        DvcMacAddr=pl.col("_macs").list.first(),
        MacAddresses=pl.col("_macs"),
        Subnets=values.joined(_parts("ip_addresses", "subnet", values.text)),
        DvcOs=values.text(pl.col("os")),
        DvcOsVersion=pl.coalesce(values.text(pl.col("osver")), values.text(pl.col("osverno"))),
        SerialNumber=values.text(pl.col("serial_no")),
        HardwareUuid=values.text(pl.col("uuid")).str.to_lowercase(),
        Manufacturer=values.text(pl.col("manufacturer")),
        Model=values.text(pl.col("hw_model")),
        CloudProvider=values.mapped(pl.col("virtual_subtype"), _CLOUDS, None),
        OwnerName=owner.str.extract(r"^([^@]+)", 1),
        OwnerUpnSuffix=owner.str.extract(r"^[^@\s]+@([^@\s]+)$", 1),
        Owners=values.one(owner),
        Organizations=values.one(values.text(pl.col("customer"))),
        Criticality=values.criticality(criticality),
        OriginalCriticality=criticality,
        Environment=values.environment(environment),
        OriginalEnvironment=environment,
        Tags=values.joined(pl.col("tags")),
        CustomFields=values.present(pl.col("_fields").list.eval(pl.concat_str(fields[0], pl.lit("="), fields[1]))),
        **coverage.columns(pl.col("_coverage")),
        IsInternetFacing=pl.when(_yes_in("tags", _EXPOSED) | exposed.is_in(["yes", "true", "1"]))
        .then(pl.lit(value=True))
        .when(exposed.is_in(["no", "false", "0"]))
        .then(pl.lit(value=False)),
        Locations=values.one(values.text(pl.col("building")), values.text(pl.col("room")), values.text(pl.col("rack"))),
        SourceUpdatedAt=values.instant(pl.col("last_updated")),
    )


def device_relations(frame: pl.LazyFrame) -> pl.LazyFrame:
    """What devices say of others: owner and customer, the host that they run on, the chassis that they are in, their subnets."""
    staged = relations.starts(
        frame,
        "ip_addresses",
        "_owner",
        "blade_host_id",
        *(values.text(pl.col(name)) for name in ("customer", "virtual_host_name", "blade_host_name")),
        name=pl.col("_label"),
        host=values.hostname(pl.col("_host_name")),
        fqdn=pl.col("_fqdn"),
        address=pl.col("_addresses").list.first(),
        updated=values.instant(pl.col("last_updated")),
        _id=_identifier(),
        _owned_as=_custom("owner", "key"),
        _customer=_numbered("customer", pl.col("customer_id")),
    )
    kinds = [
        relations.related(staged, "Owned By", "Owner", said=pl.col("_owned_as"), name=pl.col("_owner")),
        relations.related(
            staged,
            "Used By",
            "Owner",
            said=pl.lit("customer"),
            name=pl.col("customer"),
            identifier=pl.col("_customer"),
        ),
        relations.related(
            staged,
            "Runs On",
            "Asset",
            said=pl.lit("virtual_host_name"),
            name=pl.col("virtual_host_name"),
        ),
        relations.related(
            staged,
            "Member Of",
            "Asset",
            said=pl.lit("blade_host"),
            name=pl.col("blade_host_name"),
            identifier=pl.col("blade_host_id").cast(pl.String),
        ),
        _in_networks(staged),
    ]
    return relations.rows("device42", staged, kinds)


def _numbered(kind: str, number: pl.Expr) -> pl.Expr:
    """An identifier that is no device's: every kind of thing has numbers of its own."""
    return pl.concat_str(pl.lit(f"{kind}/"), number.cast(pl.String))


def _in_networks(staged: pl.LazyFrame) -> pl.LazyFrame:
    """One relation for each subnet in which a device has addresses, with the addresses. What is in no known subnet is filed under one that holds everything."""
    of = pl.col("ip_addresses").struct
    taken = (
        staged.select(RECORD, "_id", *relations.FROM, "ip_addresses")
        .explode("ip_addresses")
        .with_columns(
            _subnet=values.text(of.field("subnet")),
            _to=_numbered("subnet", of.field("subnet_id")),
            _ip=pl.concat_str(pl.lit("ip="), values.text(of.field("ip"))),
        )
    )
    somewhere = ~pl.col("_subnet").str.contains(_EVERYWHERE).fill_null(value=False)
    # A subnet is written as name-network(customer), with or without the first and the last.
    named = taken.filter(somewhere).with_columns(_name=pl.coalesce(pl.col("_subnet").str.extract(_CIDR, 1), "_subnet"))
    grouped = named.group_by(RECORD, pl.coalesce("_to", "_name").alias("_end"), maintain_order=True).agg(
        pl.col("_id", *relations.FROM, "_to", "_name").first(), "_ip"
    )
    return relations.related(
        grouped,
        "In Network",
        "Network",
        said=pl.lit("subnet"),
        name=pl.col("_name"),
        identifier=pl.col("_to"),
        attributes=values.distinct(values.present(pl.col("_ip"))),
    )


TRANSFORMS = (Transform("device42", "devices", "Device42", "Device42", ASSETS, _DEVICE, devices, _prepared),)

DERIVED = (
    Transform("device42", "relations", "Device42", "Device42", RELATIONSHIPS, _DEVICE, device_relations, _prepared),
)
"""Of each derived stream, with the fields of the stream whose records it is made of."""
