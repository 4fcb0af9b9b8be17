"""Every source that the app knows: a new product adds its line here."""

from __future__ import annotations

from sources import cycognito, device42, tenable
from sources.model import Source

SOURCES: dict[str, Source] = {module.SOURCE.name: module.SOURCE for module in (cycognito, device42, tenable)}
