"""Device42: a CMDB with discovery. Devices, by limit and offset with a total, so the offsets are cut into lanes. What they
say of owners, hosts, chassis and subnets are relations.

`blankasnull=yes` makes empty text null. The server caps the limit silently; the reader moves on by what it received.
"""

from __future__ import annotations

from sources.authentication import Basic
from sources.model import Derived, Source, Stream
from sources.overlapping import Overlapping

PAGE_SIZE = 1000

SOURCE = Source(
    name="device42",
    vendor="Device42",
    product="Device42",
    default_url="https://device42.example",
    secrets=("username", "password"),
    authentication=Basic("username", "password"),
    streams=(
        Stream(
            "devices",
            "CAASM_Assets_CL",
            Overlapping(
                "/api/1.0/devices/all/",
                PAGE_SIZE,
                key="id",
                records_key="Devices",
                total_key="total_count",
                query={"blankasnull": "yes"},
            ),
            lanes=2,
        ),
    ),
    derived=(Derived("relations", "CAASM_Relationships_CL", parent="devices"),),
)
