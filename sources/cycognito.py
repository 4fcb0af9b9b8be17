"""CyCognito: an external attack surface. Domains, web applications, IP ranges and issues, by page number.

`offset` is the number of a page, not of a record (recorded traffic), a page is a bare array, and the end is an empty page. The key goes into
Authorization without a scheme. The vendor documents no rate limit, so a stream is one lane and the streams run side by side. Nothing says how many
records there are, so pages overlap. A page has at most 1,000 records (the vendor's API V1 reference, `count`; the recorded traffic asked for 500).
"""

from __future__ import annotations

from sources.authentication import Headers
from sources.model import Derived, Source, Stream
from sources.overlapping import Overlapping

PAGE_SIZE = 1000


def _pages(path: str) -> Overlapping:
    return Overlapping(
        path,
        PAGE_SIZE,
        key="id",
        method="POST",
        numbered=True,
        position_parameter="offset",
        size_parameter="count",
        json=[],
    )


SOURCE = Source(
    name="cycognito",
    vendor="CyCognito",
    product="CyCognito",
    default_url="https://api.platform.cycognito.com",
    secrets=("api_key",),
    authentication=Headers({"Authorization": "{api_key}"}),
    streams=(
        Stream("domains", "CAASM_Assets_CL", _pages("/v1/assets/domain")),
        Stream("web_apps", "CAASM_Assets_CL", _pages("/v1/assets/webapp")),
        Stream("ip_ranges", "CAASM_Assets_CL", _pages("/v1/assets/iprange")),
        Stream("issues", "CAASM_Findings_CL", _pages("/v1/issues")),
    ),
    derived=tuple(
        Derived(f"{parent.removesuffix('s')}_relations", "CAASM_Relationships_CL", parent)
        for parent in ("domains", "web_apps", "ip_ranges")
    ),
)
