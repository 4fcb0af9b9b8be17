"""Words of the synthetic inventory: organisations, hosts, teams and running text, all invented here.

The text is drawn from a fixed generator, so templates are the same in every process; only identities depend on the seed.
"""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa

from local.products.columns import field, hex_text, join, key_of, mix64, pick, scramble32, table

ORGANISATIONS = (
    ("Contoso Retail", "contoso-retail"),
    ("Contoso Energie GmbH & Co. KG", "contoso-energie"),
    ("Fabrikam Motors", "fabrikam-motors"),
    ("Fabrikam Données & Réseaux", "fabrikam-reseaux"),
    ("Northwind Freight", "northwind-freight"),
    ("Tailspin Toys", "tailspin"),
    ("Wide World Importers", "wwi"),
    ("Litware Łódź", "litware"),
    ("Adventure Works 東京", "adventure-works"),
)
TEAMS = (
    "Payments Platform",
    "Rechenzentrum Süd",
    "Identity & Access",
    "Store Systems",
    "Data Infrastructure",
    "Field IT",
)
COUNTRIES = ("DEU", "FRA", "USA", "SGP", "BRA", "JPN", "POL", "ZAF", "SWE")
_ROLES = (
    "web",
    "db",
    "app",
    "api",
    "mail",
    "vpn",
    "ci",
    "dns",
    "cache",
    "file",
    "print",
    "kiosk",
    "edge",
    "auth",
    "log",
    "etl",
)
_SITES = ("fra1", "ams2", "iad3", "gru1")
_VOCABULARY = (
    "the service accepts a request before it checks the session and answers with more than the caller may see so that an "
    "attacker on the same network can read settings replay a token or change a record that belongs to another tenant the "
    "component is no longer maintained its publisher has announced the end of support and newer releases contain the fix "
    "configuration of this host differs from the baseline that was agreed for its zone and should be reviewed by the owner"
)
_WORDS = tuple(_VOCABULARY.split())
ODDITIES = (
    'The banner reads "Welcome \\ Willkommen" and names the version.',
    "See <b>section 4.2</b> &amp; the appendix; <a href='#fix'>fix</a>.",
    "Umlaute im Pfad: C:\\Programme\\Übersicht\\Prüfung.exe",
    "Ça dépend de l’hôte – vérifier « TLS » d’abord.",
    "Tab\tseparated\tvalues, and a bell \u0007 in the banner.",
    "確認してください: 設定 → 保護 🔒",
)


def sentence(rng: random.Random, words: int) -> str:
    """An invented sentence of that many words."""
    start = rng.randrange(len(_WORDS))
    out = " ".join(_WORDS[(start + k + (rng.random() < 0.05)) % len(_WORDS)] for k in range(words))
    return out[0].upper() + out[1:] + "."


def prose(rng: random.Random, size: int, separator: str = " ", odd: float = 0.1) -> str:
    """Running text of about `size` characters; a share `odd` of its sentences has quotes, markup or other scripts."""
    parts: list[str] = []
    length = 0
    while length < size:
        part = rng.choice(ODDITIES) if rng.random() < odd else sentence(rng, rng.randint(6, 16))
        parts.append(part)
        length += len(part) + len(separator)
    return separator.join(parts)


_HOST_PREFIXES = table(f"{role}-{site}-".encode() for role in _ROLES for site in _SITES)
_DOMAINS = table(f".{label}.example".encode() for _, label in ORGANISATIONS)


def host(seed: int, number: Any) -> Any:
    """The name of host `number` (below 2**32), the same in every product of that seed, unique."""
    h = mix64(number, key_of(seed, "host"))
    return join(pick(_HOST_PREFIXES, field(h, 0, 64)), hex_text(scramble32(number, seed, "host-name"), 2))


def organisation(seed: int, number: Any) -> Any:
    """The organisation (an index of ORGANISATIONS) that host `number` belongs to; the first ones own most."""
    h = mix64(number, key_of(seed, "organisation"))
    return pick(_ORGANISATION_SHARES, field(h, 0, 64, 6))


_ORGANISATION_SHARES = pa.array(
    [0] * 24 + [1] * 14 + [2] * 8 + [3] * 6 + [4] * 4 + [5] * 3 + [6] * 2 + [7] * 2 + [8], pa.uint32()
)


def fqdn(seed: int, number: Any) -> Any:
    """The full name of host `number`, under a domain reserved by RFC 2606."""
    return join(host(seed, number), pick(_DOMAINS, organisation(seed, number)))
