"""What records say of owners, hosts, networks, accounts and other assets, in plain Python: what the rows of CAASM_Relationships_CL are compared with.

Invariant: nothing here is taken from the transforms; a record is read as JSON, one at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from local.products.columns import numbers
from local.products.synthetic import Inventory

JsonDict = dict[str, Any]

_OWNER: Final = {"owner", "owner name", "asset owner", "system owner", "technical owner"}

_NETWORK: Final = re.compile(r"(?:[^/]*-)?(?P<network>[0-9A-Fa-f.:]+/[0-9]+)(?:\(.*\))?")

_FULL_NAME: Final = re.compile(r"[^\s.]+(?:\.[^\s.]+)+")

_ADDRESS: Final = re.compile(r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}")

BLOCK: Final = 4096


End = tuple[str, str, str, str | None, str | None, tuple[str, ...]]
"""Kind, in the product's words, type of the other end, its identifier, its name, attributes."""


class Relation(NamedTuple):
    """One relation, without the columns that every row has. `to_id`: with its source; None where the product only names the other end."""

    from_id: str
    from_name: str | None
    address: str | None
    kind: str
    said: str
    to_type: str
    to_id: str | None
    to_name: str | None
    attributes: tuple[str, ...] = ()
    gone: bool = False


class Start(NamedTuple):
    """Where the relations of a record start."""

    identifier: str | None
    name: str | None
    address: str | None
    gone: bool = False


def related(record: JsonDict, source: str = "device42", stream: str = "relations") -> dict[str, Relation]:
    """The relations of a record in the derived stream by the original id of their rows. A record without an id has none."""
    of = STREAMS[source, stream]
    start = of.start(record)
    if start.identifier is None:
        return {}
    found = {}
    for kind, said, to_type, identifier, name, attributes in of.ends(record):
        if identifier is None and name is None:
            continue
        key = f"{start.identifier}|{kind}|{to_type}|{identifier or name}"
        to_id = f"{source}:{identifier}" if identifier else None
        where = (f"{source}:{start.identifier}", start.name, start.address)
        found[key] = Relation(*where, kind, said, to_type, to_id, name, attributes, start.gone)
    return found


def _device(record: JsonDict) -> Start:
    number = record["id"] if record.get("id") is not None else record.get("device_id")
    addresses = [_text(entry.get("ip")) for entry in record.get("ip_addresses") or []]
    address = next((text for text in addresses if text), None)
    return Start(None if number is None else str(number), _text(record.get("name")), address)


def _of_device(record: JsonDict) -> Iterator[End]:
    owned = [field for field in record.get("custom_fields") or [] if _text(field.get("value"))]
    owner = next((field for field in owned if (field.get("key") or "").strip().lower() in _OWNER), None)
    if owner is not None:
        yield "Owned By", owner["key"], "Owner", None, _text(owner["value"]), ()
    yield (
        "Used By",
        "customer",
        "Owner",
        _kind("customer", record.get("customer_id")),
        _text(record.get("customer")),
        (),
    )
    yield "Runs On", "virtual_host_name", "Asset", None, _text(record.get("virtual_host_name")), ()
    chassis = record.get("blade_host_id")
    name = _text(record.get("blade_host_name"))
    yield "Member Of", "blade_host", "Asset", None if chassis is None else str(chassis), name, ()
    networks: dict[str, tuple[str | None, str | None, list[str]]] = {}
    for entry in record.get("ip_addresses") or []:
        subnet, identifier = _text(entry.get("subnet")), _kind("subnet", entry.get("subnet_id"))
        match = _NETWORK.fullmatch(subnet or "")
        name = match["network"] if match else subnet
        end = identifier or name
        if end is None or name in {"0.0.0.0/0", "::/0"}:
            continue
        addresses = networks.setdefault(end, (identifier, name, []))[2]
        address = _text(entry.get("ip"))
        if address and f"ip={address}" not in addresses:
            addresses.append(f"ip={address}")
    for identifier, name, addresses in networks.values():
        yield "In Network", "subnet", "Network", identifier, name, tuple(addresses)


def _tenable_asset(record: JsonDict) -> Start:
    identifier = _text(record.get("id"))
    names = (name.strip().lower().removesuffix(".") for name in record.get("fqdns") or [] if name)
    full = next((name for name in names if _FULL_NAME.fullmatch(name) and not _ADDRESS.fullmatch(name)), None)
    hosts = [name for of in ("hostnames", "netbios_names", "agent_names") for name in record.get(of) or []]
    host = _text(next((name for name in hosts if name is not None), None))
    addresses = [*(record.get("ipv4s") or []), *(record.get("ipv6s") or [])]
    address = next((ip for ip in addresses if ip is not None), None)
    gone = record.get("deleted_at") is not None or record.get("terminated_at") is not None
    return Start(identifier, full or host or _text(record.get("aws_ec2_name")) or address or identifier, address, gone)


def _of_tenable_asset(record: JsonDict) -> Iterator[End]:
    network, name = _text(record.get("network_id")), _text(record.get("network_name"))
    default = network == "00000000-0000-0000-0000-000000000000" if network else (name or "").lower() == "default"
    if not default:
        yield "In Network", "network", "Network", _kind("network", network), name, ()
    yield "In Network", "aws_vpc_id", "Network", None, _text(record.get("aws_vpc_id")), ()
    resource = _text(record.get("azure_resource_id")) or _text(record.get("azure_vm_id")) or ""
    parts = resource.split("/")
    subscription = parts[2] if len(parts) > 2 and parts[0] == "" and parts[1].lower() == "subscriptions" else None
    for said, account in (
        ("azure_resource_id", subscription),
        ("aws_owner_id", record.get("aws_owner_id")),
        ("gcp_project_id", record.get("gcp_project_id")),
    ):
        if _text(account):
            yield "Member Of", said, "Cloud Account", None, _text(account), ()
            return


def _cycognito_asset(record: JsonDict) -> Start:
    identifier = _text(record.get("id"))
    address = next((ip for ip in record.get("ip_names") or [] if ip is not None), None)
    return Start(identifier, _named(identifier), address)


def _web_app(record: JsonDict) -> Start:
    identifier = _text(record.get("id"))
    host = _host(identifier)
    return Start(identifier, _named(identifier), host if _ADDRESS.fullmatch(host) else None)


def _of_cycognito_asset(record: JsonDict) -> Iterator[End]:
    yield "Owned By", "owned_by", "Owner", None, _text(record.get("owned_by")), ()
    for organization in record.get("organizations") or []:
        yield "Used By", "organizations", "Owner", None, _text(organization), ()
    for address in record.get("ip_names") or []:
        if _text(address):
            yield "Resolves To", "ip_names", "Asset", _kind("ip", _text(address)), _text(address), ()
    for below in record.get("sub_domains") or []:
        yield "Contains", "sub_domains", "Asset", _text(below), _named(_text(below)), ()


def _of_web_app(record: JsonDict) -> Iterator[End]:
    yield from _of_cycognito_asset(record)
    host = _host(_text(record.get("id")))
    if _ADDRESS.fullmatch(host):
        yield "Runs On", "id", "Asset", f"ip/{host}", host, ()
    elif _FULL_NAME.fullmatch(host):
        yield "Runs On", "id", "Asset", f"domain/{host.lower()}", host.lower(), ()


def _named(identifier: str | None) -> str | None:
    return (identifier or "").partition("/")[2] or identifier


def _host(identifier: str | None) -> str:
    """The host of an identifier that is <kind>/<host> or <kind>/<host>:<port>."""
    return (_named(identifier) or "").partition(":")[0]


def _kind(kind: str, number: object) -> str | None:
    return None if number is None else f"{kind}/{number}"


def _text(value: object) -> str | None:
    return str(value).strip() or None if value is not None else None


class Derived(NamedTuple):
    """A derived stream: the product and the kind of its parent's records in an inventory, where their relations start and end."""

    product: str
    kind: str
    start: Callable[[JsonDict], Start]
    ends: Callable[[JsonDict], Iterable[End]]


STREAMS: Final = {
    ("device42", "relations"): Derived("device42", "assets", _device, _of_device),
    ("tenable", "relations"): Derived("tenable_io", "assets", _tenable_asset, _of_tenable_asset),
    ("cycognito", "domain_relations"): Derived("cycognito", "assets_domain", _cycognito_asset, _of_cycognito_asset),
    ("cycognito", "web_app_relations"): Derived("cycognito", "assets_webapp", _web_app, _of_web_app),
    ("cycognito", "ip_range_relations"): Derived("cycognito", "assets_iprange", _cycognito_asset, _of_cycognito_asset),
}


def all_related(
    records: Iterable[JsonDict], source: str = "device42", stream: str = "relations"
) -> dict[str, Relation]:
    """The relations of many records."""
    found: dict[str, Relation] = {}
    for record in records:
        found |= related(record, source, stream)
    return found


def records_of(inventory: Inventory, source: str, stream: str) -> Iterator[JsonDict]:
    """The records that the derived stream is made of, on the inventory's day."""
    of = inventory.stream(*STREAMS[source, stream][:2])
    for first in range(0, of.count, BLOCK):
        yield from json.loads(b"[" + bytes(of.body(numbers(first, min(BLOCK, of.count - first)))) + b"]")


def of_inventory(inventory: Inventory, source: str = "device42", stream: str = "relations") -> dict[str, Relation]:
    """The relations that the inventory's records have on its day, as they are sent: lists in order."""
    found = all_related(records_of(inventory, source, stream), source, stream)
    return {key: of._replace(attributes=tuple(sorted(of.attributes))) for key, of in found.items()}
