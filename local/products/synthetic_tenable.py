"""Synthetic Tenable assets: explicit nulls, two generations of key sets, identities that the findings repeat.

`Identity` is the one place that says who asset n is; the finding stream uses it for the asset inside each finding.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from typing import Any

import pyarrow.compute as pc

from local.products import wording
from local.products.columns import (
    Age,
    Draws,
    Moments,
    external_ipv4,
    field,
    hex_text,
    ipv4,
    join,
    key_of,
    mac,
    mix64,
    pick,
    table,
    text,
    u64,
    uuid_text,
)
from local.products.layout import Layouts, slot
from local.products.synthetic import Rendering, SyntheticStream

_TEMPLATES = 256
_SYSTEMS = (
    "Windows Server 2022",
    "Linux Kernel 6.1 on Debian 12",
    "macOS 14.2",
    "Linux Kernel 5.15,Linux Kernel 6.1",
    "Windows 11 Pro",
)
_SOFTWARE = ("openssl:openssl:3.0", "nginx:nginx:1.24", "python:python:3.11", "contoso:agent:7.2", "fabrikam:reader:21")
_NULLS_AWS = (
    "aws_owner_id", "aws_availability_zone", "aws_region", "aws_vpc_id", "aws_ec2_instance_group_name",
    "aws_ec2_instance_state_name", "aws_ec2_instance_type", "aws_subnet_id", "aws_ec2_product_code", "aws_ec2_name",
    "mcafee_epo_guid", "mcafee_epo_agent_guid", "servicenow_sysid",
)  # fmt: skip
_ORDER = [
    "uuid",
    "created",
    "updated",
    "first",
    "last",
    "first",
    "last",
    "last",
    "last",
    "scan",
    "schedule",
    "azure",
    "agent",
    "bios",
    "agent_name",
    "ip0",
    "ip1",
    "ip6",
    "fqdn",
    "mac0",
    "mac1",
    "netbios",
    "host",
    "first",
    "last",
    "iface_fqdn",
    "mac0",
    "ip0",
    "ip6",
    "mac1",
    "ip1",
]


class Identity:
    """Who asset `number` is: columns that assets and findings share."""

    def __init__(self, seed: int, number: Any) -> None:
        self.seed = seed
        self.number = number
        self._hash = mix64(number, key_of(seed, "tenable/address"))

    def uuid(self) -> Any:
        """The asset's id; unique, since the first half is a bijection of the number."""
        high = mix64(self.number, key_of(self.seed, "tenable/uuid-high"))
        return uuid_text(high, mix64(self.number, key_of(self.seed, "tenable/uuid-low")))

    def host(self) -> Any:
        return wording.host(self.seed, self.number)

    def fqdn(self) -> Any:
        return wording.fqdn(self.seed, self.number)

    def address(self) -> Any:
        """An internal address; for one asset in eight an external one (240.0.0.0/4)."""
        external = pc.equal(field(self._hash, 48, 8, 3), u64(0))
        return pc.if_else(external, external_ipv4(self._hash), ipv4(b"10.", self._hash))

    def mac(self) -> Any:
        return mac(self._hash)

    def agent(self) -> Any:
        return hex_text(mix64(self.number, key_of(self.seed, "tenable/agent")), 4)

    def bios(self) -> Any:
        return uuid_text(mix64(self.number, key_of(self.seed, "tenable/bios")), self._hash)


def _interfaces(rng: random.Random, agent: bool, addresses: int) -> list[dict[str, object]]:
    if not agent or rng.random() < 0.5:
        return []
    first: dict[str, object] = {
        "name": "eth0",
        "virtual": None,
        "aliased": None,
        "fqdns": [slot("iface_fqdn")],
        "mac_addresses": [slot("mac0")],
    }
    first |= {"ipv4s": [slot("ip0")], "ipv6s": [slot("ip6")]}
    if addresses < 2:
        return [first]
    second = {
        "name": "eth0:1",
        "virtual": True,
        "aliased": None,
        "fqdns": [],
        "mac_addresses": [slot("mac1")],
        "ipv4s": [slot("ip1")],
        "ipv6s": [],
    }
    return [first, second]


def _template(rng: random.Random) -> dict[str, object]:
    """One kind of asset; the newer generation has 59 keys, the older 52."""
    newer, agent = rng.random() < 0.12, rng.random() < 0.15
    azure = newer and rng.random() < 0.2
    scanned = rng.random() > 0.02
    addresses = rng.choices([1, 2], [9, 1])[0]
    d: dict[str, object] = {"id": slot("uuid"), "has_agent": agent, "has_plugin_results": True if scanned else None}
    d |= {"created_at": slot("created"), "terminated_at": None, "terminated_by": None, "updated_at": slot("updated")}
    d |= {"deleted_at": None, "deleted_by": None, "first_seen": slot("first"), "last_seen": slot("last")}
    d |= {"first_scan_time": slot("first") if scanned else None, "last_scan_time": slot("last") if scanned else None}
    d |= {"last_authenticated_scan_date": slot("last") if agent and scanned else None}
    d |= {"last_licensed_scan_date": slot("last") if scanned else None}
    if newer:
        d |= {
            "last_scan_id": slot("scan") if scanned else None,
            "last_schedule_id": "template-" + slot("schedule") if scanned else None,
        }
    d |= {"azure_vm_id": slot("azure") if azure else None}
    d |= {
        "azure_resource_id": "/subscriptions/00000000-0000-4000-8000-000000000042/resourcegroups/prod-we/providers/microsoft.compute/virtualmachines/vm"
        if azure
        else None
    }
    if newer:
        d |= dict.fromkeys(("gcp_project_id", "gcp_zone", "gcp_instance_id"))
    d |= dict.fromkeys(("aws_ec2_instance_ami_id", "aws_ec2_instance_id"))
    d |= {"agent_uuid": slot("agent") if agent else None, "bios_uuid": slot("bios") if agent else None}
    d |= (
        {"network_id": "00000000-0000-0000-0000-000000000000", "network_name": "Default"}
        if newer
        else {"environment_id": None}
    )
    d |= dict.fromkeys(_NULLS_AWS)
    d |= {"bigfix_asset_id": None} if newer else {}
    d |= {"agent_names": [slot("agent_name")] if agent else []}
    if newer:
        d |= {"installed_software": [f"cpe:/a:{rng.choice(_SOFTWARE)}.{k}" for k in range(rng.choice([0, 1, 6, 30]))]}
    d |= {"ipv4s": [slot("ip0"), slot("ip1")][:addresses], "ipv6s": [slot("ip6")] if agent else []}
    d |= {
        "fqdns": [slot("fqdn")] if rng.random() < 0.37 else [],
        "mac_addresses": [slot("mac0"), slot("mac1")][: rng.choice([0, 1, 1, 1, 2])],
    }
    d |= {"netbios_names": [slot("netbios")] if rng.random() < 0.08 else []}
    d |= {"operating_systems": [rng.choice(_SYSTEMS)] if rng.random() < 0.9 else []}
    d |= {"system_types": [rng.choice(["general-purpose"] * 9 + ["router", "switch"])] if rng.random() < 0.83 else []}
    d |= {"hostnames": [slot("host")] if agent or rng.random() < 0.44 else []}
    for key in (
        "ssh_fingerprints",
        "qualys_asset_ids",
        "qualys_host_ids",
        "manufacturer_tpm_ids",
        "symantec_ep_hardware_keys",
    ):
        d[key] = []
    name = "NESSUS_AGENT" if agent else rng.choice(["NESSUS_SCAN"] * 15 + ["PVS"])
    d |= {"sources": [{"name": name, "first_seen": slot("first"), "last_seen": slot("last")}]}
    tag = {
        "uuid": "5f0c7b1e-0000-4000-8000-00000000000a",
        "key": "Zone",
        "value": rng.choice(["DMZ", "Prod – Süd", 'Lab "B"']),
    }
    tag |= {"added_by": "5f0c7b1e-0000-4000-8000-00000000000b", "added_at": "2024-05-31T21:27:32.751Z"}
    return d | {"tags": [tag] if rng.random() < 0.1 else [], "network_interfaces": _interfaces(rng, agent, addresses)}


def _altered(template: dict[str, Any], copy: int) -> dict[str, Any]:
    """The asset after a change that a tag numbers: another system, other software, or (without that list) a type."""
    tag = {
        "uuid": "5f0c7b1e-0000-4000-8000-00000000000c",
        "key": "Change",
        "value": "CHG-" + slot("revision"),
        "added_by": "5f0c7b1e-0000-4000-8000-00000000000b",
        "added_at": "2024-05-31T21:27:32.751Z",
    }
    changes: dict[str, Any] = {"tags": [*template["tags"], tag]}
    if copy == 0:
        changes |= {"operating_systems": ["Windows Server 2025"]}
    elif copy == 1 and "installed_software" in template:
        changes |= {"installed_software": [*template["installed_software"], "cpe:/a:contoso:agent:7.3"]}
    elif copy == 1:
        changes |= {"system_types": ["hypervisor"]}
    return template | changes


@cache
def _layout() -> Layouts:
    rng = random.Random(4207)  # fixed: templates do not depend on the seed
    tags = _ORDER.index("iface_fqdn")
    lived_order = [*_ORDER[:tags], "revision", *_ORDER[tags:]]
    return Layouts([_template(rng) for _ in range(_TEMPLATES)], _ORDER, _altered, lived_order)


_SCHEDULES = table(b"5f0c7b1e-000%d-4000-8000-0000000000001d2e3f4a5b6c7d8e" % k for k in range(8))


def stream(assets: int, seed: int) -> SyntheticStream:
    """The asset stream; `updated_at` and the other times are facts that the export's filters read."""

    def times(draws: Draws) -> tuple[Moments, Moments, Moments]:
        h, change = draws.hash("created"), draws.hash("change", volatile=True)
        day = pc.add(field(change, 48, 124, 12), u64(900))
        seen = Moments(day, draws.hash("seen", volatile=True))
        return draws.first(Moments(field(h, 48, 800), h)), draws.last(Moments(day, change)), draws.last(seen)

    def render(index: Any, age: Age | None) -> Rendering:
        draws = Draws(seed, "tenable/asset", index, age)
        h, other = draws.hash("template"), draws.hash("other")
        who = Identity(seed, index)
        created, updated, seen = times(draws)
        host, fqdn = who.host(), who.fqdn()
        slots = {
            "uuid": who.uuid(),
            "created": created.text(),
            "updated": updated.text(),
            "first": created.text(),
            "last": seen.text(),
            "scan": uuid_text(other, h),
            "schedule": pick(_SCHEDULES, field(h, 16, 8, 3)),
            "azure": uuid_text(h, other),
            "agent": who.agent(),
            "bios": who.bios(),
            "agent_name": host,
            "ip0": who.address(),
            "ip1": ipv4(b"10.", other),
            "ip6": join(text(b"fe80:0:0:0:"), hex_text(other, 1), text(b":0:0:1")),
            "fqdn": fqdn,
            "iface_fqdn": fqdn,
            "mac0": who.mac(),
            "mac1": mac(other),
            "netbios": host,
            "host": host,
            **draws.revision(),
        }
        return Rendering(draws.variant(field(h, 0, _TEMPLATES), _TEMPLATES), slots)

    def key(index: Any) -> Any:
        return Identity(seed, index).uuid()

    def facts(index: Any, age: Age | None) -> Mapping[str, Any]:
        created, updated, seen = times(Draws(seed, "tenable/asset", index, age))
        return {"updated_at": updated.epoch_s(), "created_at": created.epoch_s(), "last_seen": seen.epoch_s()}

    # The numbers behind the exported assets' are those of assets that findings name and nobody exports.
    return SyntheticStream("tenable_io", "assets", assets, _layout(), render, key, facts, first_new=2 * assets)
