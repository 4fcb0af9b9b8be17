"""Every stream's transform: a new product adds its module here."""

from __future__ import annotations

from transforms import cycognito, device42, tenable
from transforms.rows import Transform

TRANSFORMS: dict[tuple[str, str], Transform] = {
    (transform.source, transform.stream): transform
    for module in (cycognito, device42, tenable)
    for transform in module.TRANSFORMS
}

DERIVED: dict[tuple[str, str], Transform] = {
    (transform.source, transform.stream): transform
    for module in (cycognito, device42, tenable)
    for transform in module.DERIVED
}
"""Transforms of derived streams: they read the fields of their parent's, which are decoded once for both."""
