"""Synthetic Device42: devices of all kinds, sparse as the real ones: most leaves are null and many keys absent.

What a device has (disks, rack, addresses) is its template's; who it is (id, name, serial, addresses, owner, protection)
is the slots'.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

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
    ipv4,
    join,
    mac,
    pick,
    table,
    text,
    u64,
    uuid_text,
)
from local.products.layout import Layouts, compact, raw, slot
from local.products.synthetic import Rendering, SyntheticStream

_TEMPLATES = 512
_ADDRESSES = 4
_KINDS = ["physical"] * 322 + ["other"] * 231 + ["virtual"] * 218 + ["unknown"] * 95 + ["blade"] * 27 + ["cluster"] * 12
_SYSTEMS = (
    "Windows Server 2019 Standard",
    "Windows 11 Enterprise",
    "Debian GNU/Linux 12",
    "Rocky Linux 9.3",
    "ESXi 7.0",
    "ubuntu",
)
_MAKERS = (
    "Contoso Systems, Inc.",
    "Fabrikam Netzwerke GmbH",
    "Northwind Power",
    "Tailspin Compute",
    "Litware Łódź S.A.",
)
_MODELS = ("CX-2100", 'Rack "Eco" 19\'', "NW-48T", "Blade 460 Gen4", "PDU 32A/400V", "Workstation ZR9")
_SUBTYPES = {"physical": ("Rackable", "Laptop", "Workstation"), "other": ("PDU", "Generic", "UPS"), "blade": ("Blade",)}
_VIRTUAL = ("VMWare", "Internal VM", "Hyper-V", "KVM", "Amazon EC2 Instance")
_FIELDS = (
    "''", "7", "Business Unit", "Change Window", "Cost Center", "Data Class", "DR Tier", "Env", "Exception Until", "Function",
    "GRC Ref", "Last Review", "legacy id", "Migration_Wave", "Notes (ops)", "Owner", "Owner Name", "Patch Group", "Project",
    "Recovery_h", "Region", "Rufnummer", "SentinelOne_Active", "Status", "Business Criticality", "test", "Überwachung", "YN",
)  # fmt: skip
_ORDER = [
    "env",
    "owner",
    "owner_name",
    "edr",
    "mac0",
    "mac1",
    "id",
    "id",
    "mac0",
    "ip0",
    "mac1",
    "ip1",
    "ip2",
    "ip3",
    "last_updated",
    "level",
    "vhost",
    "asset_no",
    "name",
    "serial",
    "uuid",
]


def _custom_fields(rng: random.Random) -> list[dict[str, object]]:
    values: dict[str, object] = {
        "SentinelOne_Active": raw("edr"),
        "Owner": raw("owner"),
        "Owner Name": raw("owner_name"),
        "Env": raw("env"),
        "Business Criticality": rng.choices([None, "Critical", "High", "Medium", "Low"], [60, 10, 10, 12, 8])[0],
    }
    if rng.random() < 0.05:
        values[rng.choice(["Project", "test", "Region"])] = rng.choice(
            ['Wave "B"', "Zürich – DR", "yes", "3.2", "2027-02-30"]
        )
    return [{"notes": None, "key": key, "value": values.get(key)} for key in _FIELDS]


def _addresses(rng: random.Random, macs: int) -> list[dict[str, object]]:
    count = rng.choices([0, 1, 2, 3, 4, 11], [594, 201, 80, 12, 12, 6])[0]
    out: list[dict[str, object]] = []
    for k in range(count):
        entry: dict[str, object] = {
            "subnet_id": rng.randint(1, 40),
            "label": rng.choice(["eth0", "mgmt", "Ethernet 2", None]),
            "type": rng.choice([None] * 12 + [1, 2]),
        }
        if k < min(macs, 2):
            entry["macaddress"] = slot(f"mac{k}")
        external = k == 1
        entry["subnet"] = "Perimeter-240.0.0.0/4" if external else f"Zone {rng.randint(1, 9)}-10.0.0.0/8"
        entry["ip"] = slot(f"ip{k}") if k < _ADDRESSES else f"fe80::{rng.randrange(65536):x}:{k:x}"
        out.append(entry)
    return out


def _purchase(rng: random.Random) -> dict[str, object]:
    return {
        "line_notes": None,
        "purchase_id": rng.randint(1, 30),
        "line_type": "Contract",
        "line_item_type": "Device",
        "line_cost_center": f"40{rng.randint(100, 999)}",
        "line_start_date": "2023-06-01",
        "line_renew_date": None,
        "line_end_date": "2026-06-01",
        "line_cancel_policy": None,
        "line_contract_type": "Warranty",
        "line_frequency": "One Time",
        "line_service_type": rng.choice(["24x7", None]),
        "line_customer": rng.choice(wording.TEAMS),
        "line_quantity": rng.randint(1, 24),
        "line_no": rng.randint(1, 6),
        "line_cost": float(rng.randint(1, 40) * 100),
        "purchase_order_no": f"PO-{rng.randint(1000, 9999)}/A",
    }


def _disk(rng: random.Random) -> dict[str, object]:
    hdd = {
        "description": rng.choice(['NVMe 1 TB "fast"', None]),
        "location": None,
        "rpm": rng.choice([{"name": "15k", "id": 1}, None]),
        "bytes": "GB",
        "hd_id": rng.randint(1, 90),
        "size": 480.0,
        "notes": None,
        "partno": None,
        "type": {"name": "SATA", "id": 1},
        "manufacturer_id": rng.randint(1, 200),
    }
    return {
        "raid_group": None,
        "description": None,
        "hdd": hdd,
        "hddcount": 1,
        "part_id": rng.randint(1, 300),
        "serial_no": None,
    }


def _template(rng: random.Random) -> dict[str, object]:  # noqa: PLR0915 - the export's keys, top to bottom, in one list
    """One kind of device, with the keys in the order of the real export."""
    kind = rng.choice(_KINDS)
    virtual, blade = kind == "virtual", kind == "blade"
    model = None if virtual or kind in {"unknown", "cluster"} or rng.random() < 0.45 else rng.choice(_MODELS)
    macs = rng.choices([0, 1, 2, 5], [716, 138, 31, 20])[0]
    sized = kind in {"physical", "virtual"} and rng.random() < 0.5
    system = rng.choice(_SYSTEMS) if rng.random() < 0.2 else None
    customer = rng.random() < 0.095
    racked = kind == "physical" and rng.random() < 0.19
    disks = sized and rng.random() < 0.3
    d: dict[str, object] = {"hw_model_id": None if model is None else rng.randint(1, 320)}
    d |= {"ucs_manager": None}
    d |= {"virtual_subtype": rng.choice(_VIRTUAL)} if virtual else {}
    d |= {"slot_number": str(rng.randint(1, 16))} if blade else {}
    d |= {"hw_model": model}
    d |= {"blade_host_id": rng.randint(100, 240)} if blade else {}
    links = [{"notes": None, "link": "https://" + "console.example/?q=<id>&tab=2"}] if rng.random() < 0.05 else []
    d |= {"device_external_links": links, "is_it_virtual_host": rng.choice(["no"] * 38 + ["yes"])}
    d |= {"in_service": rng.random() > 0.056}
    d |= {"osarch": 64} if system and rng.random() < 0.25 else {}
    d |= {
        "hdd_details": [_disk(rng)] if disks and rng.random() < 0.15 else None,
        "notes": wording.prose(rng, 40, odd=0.3) if rng.random() < 0.09 else None,
    }
    d |= {"hddraid": None, "hddraid_type": None, "is_it_switch": rng.choice(["no"] * 24 + ["yes"])}
    d |= {"xpos": 0} if racked else {}
    d |= {"custom_fields": _custom_fields(rng)}
    d |= {"customer_id": rng.randint(1, 9)} if customer else {}
    named = [
        {"vlan": None, "port_name": rng.choice(["eth0", None]), "mac": slot(f"mac{k}"), "port": None}
        for k in range(min(macs, 2))
    ]
    named += [
        {
            "vlan": "default",
            "port_name": f"vmnic{k}",
            "mac": f"02:00:5e:10:{k:02x}:{rng.randrange(256):02x}",
            "port": None,
        }
        for k in range(macs - 2)
    ]
    d |= {"mac_addresses": named, "id": raw("id")}
    d |= {"device_purchase_line_items": [_purchase(rng)] if rng.random() < 0.04 else []}
    d |= {
        "cpucore": rng.choice([1, 2, 4, 8]) if sized else None,
        "ram": rng.choice([2048.0, 4096.0, 16384.0]) if sized else None,
    }
    d |= {"hddcount": rng.randint(1, 6) if disks else None, "device_id": raw("id")}
    d |= {"customer": rng.choice(wording.TEAMS) if customer else None}
    d |= {"aliases": ["www-alt.internal.example"] if rng.random() < 0.012 else []}
    d |= {"datastores": [f"/vmfs/volumes/{rng.randrange(1 << 32):08x}/"] * (rng.random() < 0.3)} if virtual else {}
    d |= {
        "os": system,
        "ip_addresses": _addresses(rng, macs),
        "last_updated": slot("last_updated"),
        "service_level": slot("level"),
    }
    d |= {"rack_id": rng.randint(60, 110)} if racked else {}
    d |= {"blade_host_name": "chassis-a.internal.example"} if blade else {}
    d |= {"cpuspeed": 2600.0 if sized and rng.random() < 0.6 else None, "preferred_alias": None}
    d |= {"virtual_host_name": slot("vhost") if virtual and rng.random() < 0.4 else None}
    d |= {"osver": rng.choice(["10", "12.4", "9.3"])} if system and rng.random() < 0.7 else {}
    d |= {"category": None, "asset_no": slot("asset_no") if rng.random() < 0.12 else None}
    d |= {"where": 5, "start_at": float(rng.randint(1, 40))} if racked else {}
    d |= {"type": kind, "hw_depth": 1 if model and not blade else None, "hddsize": 50.0 if disks else None}
    d |= {"cpucount": rng.choice([1, 2]) if sized else None, "is_it_blade_host": rng.choice(["no"] * 42 + ["yes"])}
    d |= (
        {"pdu_mapping_url": f"/api/1.0/power_units/{rng.randint(1, 300)}/"}
        if kind == "other" and rng.random() < 0.04
        else {}
    )
    d |= {"nonauthoritativealiases": []}
    d |= {"virtual_subtype_id": rng.choice([1, 2, 11, 24])} if virtual else {}
    d |= {"room": "Raum 3"} if racked else {}
    d |= {"name": slot("name")}
    d |= {"orientation": 1} if racked else {}
    d |= {"manufacturer": rng.choice(_MAKERS) if model else None} if rng.random() > 0.012 else {}
    d |= {"corethread": None}
    d |= {"building": "Halle Süd"} if racked else {}
    d |= {"device_sub_type": rng.choice(_SUBTYPES[kind])} if kind in _SUBTYPES else {}
    d |= {"osverno": "10.0.20348"} if system and rng.random() < 0.7 else {}
    d |= {"rack": f"R-{rng.randint(1, 80):02d}"} if racked else {}
    d |= {
        "tags": rng.choice([["edge", "internet-facing"], ["lab", "to retire"], ["crown jewels"]])
        if rng.random() < 0.2
        else []
    }
    d |= {"serial_no": slot("serial") if rng.random() < 0.42 else None}
    d |= {"hw_size": rng.choice([1.0, 2.0, 6.0]) if model else None} if rng.random() > 0.09 else {}
    return d | {"uuid": slot("uuid") if rng.random() < 0.18 else None}


def _altered(template: dict[str, Any], copy: int) -> dict[str, Any]:
    """The device after a change that a custom field numbers: reinstalled, renamed, or out of (back in) service."""
    fields = [
        entry | {"value": "CHG-" + slot("revision")} if entry["key"] == "Change Window" else entry
        for entry in template["custom_fields"]
    ]
    changes: dict[str, Any] = {"custom_fields": fields}
    if copy == 0:
        changes |= {"os": "Rocky Linux 9.6" if template["os"] != "Rocky Linux 9.3" else "Debian GNU/Linux 13"}
    elif copy == 1:
        changes |= {"name": slot("name") + "-r" + slot("revision")}
    else:
        changes |= {"in_service": not template["in_service"]}
    return template | changes


@cache
def _layout() -> Layouts:
    rng = random.Random(4242)  # fixed: templates do not depend on the seed
    named = _ORDER.index("name") + 1
    lived_order = ["revision", *_ORDER[:named], "revision", *_ORDER[named:]]
    return Layouts([_template(rng) for _ in range(_TEMPLATES)], _ORDER, _altered, lived_order)


_EDR = table([b'"Yes"'] * 8 + [b'"No"'] * 3 + [b"null"] * 5)
_OWNERS = table([b"null"] * 10 + [compact(team) for team in wording.TEAMS])
_OWNER_NAMES = table([b"null"] * 12 + [compact(f'Person {k} "Ops"') for k in range(4)])
_ENVIRONMENTS = table([b"null"] * 9 + [b'"production"'] * 5 + [b'"staging"', compact("Prüfstand")])
_LEVELS = table([b"Production"] * 58 + [b"Development"] * 3 + [b"Test", b"QA", b"Sandbox"])


def stream(assets: int, seed: int) -> SyntheticStream:
    """The device stream: id = number + 1, as the product numbers them."""

    def render(index: Any, age: Age | None) -> Rendering:
        draws = Draws(seed, "device42/device", index, age)
        h, change, address = draws.hash("template"), draws.hash("change", volatile=True), draws.hash("address")
        second = draws.hash("second")
        slots = {
            "edr": pick(_EDR, field(change, 32, 16, 4)),
            "owner": pick(_OWNERS, field(h, 16, 16, 4)),
            "owner_name": pick(_OWNER_NAMES, field(h, 20, 16, 4)),
            "env": pick(_ENVIRONMENTS, field(h, 24, 16, 4)),
            "mac0": mac(address),
            "mac1": mac(second),
            "id": digits(pc.add(index, u64(1))),
            "ip0": ipv4(b"10.", address),
            "ip1": external_ipv4(second),
            "ip2": ipv4(b"10.", pc.shift_right(address, u64(24))),
            "ip3": ipv4(b"10.", pc.shift_right(second, u64(32))),
            "last_updated": draws.last(Moments(field(change, 40, 1000), change)).text(b"417Z"),
            "level": pick(_LEVELS, field(h, 28, 64, 6)),
            "vhost": join(text(b"hv-"), hex_text(h, 1, 36), text(b".internal.example")),
            "asset_no": digits(field(h, 40, 900000, 20)),
            "name": wording.host(seed, index),
            "serial": join(text(b"SN"), hex_text(second, 2)),
            "uuid": uuid_text(draws.hash("uuid"), second, upper=True),
            **draws.revision(),
        }
        return Rendering(draws.variant(field(h, 0, _TEMPLATES), _TEMPLATES), slots)

    def key(index: Any) -> Any:
        return digits(pc.add(index, u64(1)))

    return SyntheticStream("device42", "assets", assets, _layout(), render, key)
