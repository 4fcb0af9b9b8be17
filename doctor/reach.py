"""Why a host could not be reached, in one of a few words: dns, tls, proxy, refused, late, broken.

Invariant: it is told from the kinds of exceptions alone, through whatever wraps them; their texts, which may quote URLs, are not passed on.
"""

from __future__ import annotations

import re
from typing import Final

WORDS: Final = {
    "dns": "the name does not resolve",
    "tls": "its certificate is not accepted, or it does not speak TLS",
    "proxy": "the proxy does not let us through",
    "refused": "the connection is refused",
    "late": "no answer in time",
    "broken": "the connection broke",
}

_KINDS: Final = (
    ("proxy", re.compile(r"ProxyError|ProxySchemeUnknown|Tunnel connection failed")),
    ("dns", re.compile(r"NameResolutionError|gaierror|[Nn]ame or service not known|getaddrinfo|no such host")),
    ("tls", re.compile(r"SSL|CertificateError|wrong version number")),
    ("late", re.compile(r"[Tt]imeout|timed out|in time")),
    ("refused", re.compile(r"NewConnectionError|ConnectionRefused|[Cc]onnection refused|[Ee]rrno 111")),
)


def unreachable(said: str) -> str:
    """The word for a text with the names of exceptions."""
    return next((word for word, pattern in _KINDS if pattern.search(said)), "broken")
