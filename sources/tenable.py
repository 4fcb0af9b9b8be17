"""Tenable Vulnerability Management: assets and vulnerabilities through export jobs with a growing list of chunks.

A job that runs already is adopted (409 names it). Fixed findings only come when `state` asks for them. A chunk may be empty or null. Deltas
use the exports' own filters; Tenable asks not to be read by several at once, so a job is one lane.
"""

from __future__ import annotations

from sources.authentication import Headers
from sources.model import Derived, Source, Stream
from sources.paging import ExportJob

ASSETS_PER_CHUNK = 1000
ASSETS_PER_VULNERABILITY_CHUNK = 100
"""The product's own 500 would be half a gigabyte where an asset has 200 findings, as scans with credentials give: more than a page may have, or memory takes."""

SOURCE = Source(
    name="tenable",
    vendor="Tenable",
    product="Tenable Vulnerability Management",
    default_url="https://cloud.tenable.com",
    secrets=("access_key", "secret_key"),
    authentication=Headers({"X-ApiKeys": "accessKey={access_key};secretKey={secret_key}"}),
    streams=(
        Stream(
            "assets",
            "CAASM_Assets_CL",
            ExportJob(
                "/assets/export",
                {"chunk_size": ASSETS_PER_CHUNK},
                since_filter="updated_at",
                size_key="chunk_size",
                sizes=(50, 10_000),
            ),
            changed_since=True,
        ),
        Stream(
            "vulnerabilities",
            "CAASM_Findings_CL",
            ExportJob(
                "/vulns/export",
                {"num_assets": ASSETS_PER_VULNERABILITY_CHUNK, "include_unlicensed": True},
                filters={"state": ["open", "reopened", "fixed"]},
                since_filter="since",
                size_key="num_assets",
                sizes=(50, 5_000),
            ),
            changed_since=True,
        ),
    ),
    derived=(Derived("relations", "CAASM_Relationships_CL", parent="assets"),),
)
