"""What Device42's records say of owners, hosts, chassis and networks, in plain Python: what the rows of CAASM_Relationships_CL are compared with.

Invariant: nothing here is taken from the transforms; a record is read as JSON, one at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from local.products.columns import numbers
from local.products.synthetic import Inventory

JsonDict = dict[str, Any]

_OWNER: Final = {"owner", "owner name", "asset owner", "system owner", "technical owner"}

_NETWORK: Final = re.compile(r"(?:[^/]*-)?(?P<network>[0-9A-Fa-f.:]+/[0-9]+)(?:\(.*\))?")

BLOCK: Final = 4096


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


def related(record: JsonDict) -> dict[str, Relation]:
    """The relations of a device by the original id of their rows. A record without an id has none."""
    number = record["id"] if record.get("id") is not None else record.get("device_id")
    if number is None:
        return {}
    addresses = [_text(entry.get("ip")) for entry in record.get("ip_addresses") or []]
    address = next((text for text in addresses if text), None)
    found = {}
    for kind, said, to_type, identifier, name, attributes in _ends(record):
        if identifier is None and name is None:
            continue
        key = f"{number}|{kind}|{to_type}|{identifier or name}"
        to_id = f"device42:{identifier}" if identifier else None
        found[key] = Relation(
            f"device42:{number}", _text(record.get("name")), address, kind, said, to_type, to_id, name, attributes
        )
    return found


def _ends(record: JsonDict) -> Iterator[tuple[str, str, str, str | None, str | None, tuple[str, ...]]]:
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


def _kind(kind: str, number: object) -> str | None:
    return None if number is None else f"{kind}/{number}"


def _text(value: object) -> str | None:
    return str(value).strip() or None if value is not None else None


def all_related(records: Iterable[JsonDict]) -> dict[str, Relation]:
    """The relations of many devices."""
    found: dict[str, Relation] = {}
    for record in records:
        found |= related(record)
    return found


def of_inventory(inventory: Inventory) -> dict[str, Relation]:
    """The relations that the inventory's devices have on its day."""
    stream = inventory.stream("device42", "assets")
    bodies = (stream.body(numbers(first, min(BLOCK, stream.count - first))) for first in range(0, stream.count, BLOCK))
    return all_related(record for body in bodies for record in json.loads(b"[" + bytes(body) + b"]"))
