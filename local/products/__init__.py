"""Simulators of the supported products: they speak the wire protocols of CyCognito, Device42 and Tenable VM.

One aiohttp process on one port serves recorded pages from a folder, or a synthetic inventory of any size in which a
record depends only on (seed, number), so that a page read twice has the same bytes.
"""

from typing import Final

CYCOGNITO_KEY: Final = "local-cycognito-key"
DEVICE42_USER: Final = "local"
DEVICE42_PASSWORD: Final = "local"  # noqa: S105 - the simulator's own, serves loopback only
TENABLE_ACCESS_KEY: Final = "local-access"
TENABLE_SECRET_KEY: Final = "local-secret"  # noqa: S105 - the simulator's own, serves loopback only
