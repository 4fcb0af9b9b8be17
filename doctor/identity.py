"""The token that rows are sent with: whether there is one, for whom, from which tenant, until when.

Invariant: a token is only looked into for its claims; neither it nor any part of its signature gets into a finding.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from doctor.clocks import REFUSED_S
from doctor.findings import Finding, doubt, fine, wrong
from settings import DestinationSettings

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

SOON_S: Final = 120.0
"""A token that ends sooner is not renewed as it should be."""

ENTRA_CODES: Final = {
    "7000215": "identity.secret",
    "7000222": "identity.secret",
    "700024": "identity.expiry",
    "90002": "identity.tenant",
    "900023": "identity.tenant",
    "700016": "identity.tenant",
    "50020": "identity.tenant",
    "500011": "identity.audience",
    "70011": "identity.audience",
}
"""What Entra ID's error codes say about us (Microsoft identity platform, error codes); any other is about the identity itself."""


def token_findings(
    destination: DestinationSettings, credential: TokenCredential, tenant: str, now: float
) -> Iterator[Finding]:
    """Everything about the token for a destination."""
    from azure.core.exceptions import AzureError

    subject = f"token for {destination.name}"
    try:
        token = credential.get_token(f"{destination.audience}/.default")
    except AzureError as error:
        yield wrong(kind_of(str(error)), subject, f"no token: {in_short(str(error))}")
        return
    except ValueError as error:
        # Of azure-identity, about its own settings: a tenant id with characters that none has.
        yield wrong(kind_of(str(error)), subject, f"no token: {in_short(str(error))}")
        return
    claims = claims_of(token.token)
    if claims is None:
        yield fine("identity.token", subject, "an emulator's" if destination.local else "it cannot be looked into")
        return
    found = [*_audience(subject, destination, claims), *_tenant(subject, tenant, claims), *_times(subject, claims, now)]
    yield from found
    if not found:
        yield fine("identity.token", subject, f"for {claims.get('aud')}, of tenant {claims.get('tid', 'unknown')}")


def in_short(text: str) -> str:
    """Why there is no token: what Entra ID says, or the first line, and what the managed identity has to say, which is one line of many."""
    told = re.search(r"AADSTS\d+:[^\n]*?(?=\. |\.?\s*$|\n)", text)
    if told:
        return told[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    managed = [line for line in lines[1:] if line.startswith("ManagedIdentityCredential:")]
    return " ".join([*lines[:1], *managed])


def kind_of(text: str) -> str:
    """The kind of finding that a refusal of a token is."""
    for code in re.findall(r"AADSTS(\d+)", text):
        if code in ENTRA_CODES:
            return ENTRA_CODES[code]
    return "identity.tenant" if re.search(r"[Ii]nvalid tenant", text) else "identity.token"


def claims_of(token: str) -> Mapping[str, Any] | None:
    """The claims of a JSON web token, unverified; None for a token that is none."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    return claims if isinstance(claims, dict) else None


def _audience(subject: str, destination: DestinationSettings, claims: Mapping[str, Any]) -> Iterator[Finding]:
    given = str(claims.get("aud", "")).rstrip("/")
    # Entra may name a resource by its application id, which says nothing that can be compared.
    if given != destination.audience.rstrip("/") and not re.fullmatch(r"[0-9a-fA-F-]{36}", given):
        yield wrong("identity.audience", subject, f"the token is for {given!r}, not for {destination.audience!r}")
    clouds = {".azure.com": "monitor.azure.com", ".azure.us": "monitor.azure.us", ".azure.cn": "monitor.azure.cn"}
    for end, host in clouds.items():
        if destination.endpoint.endswith(end) and host not in destination.audience:
            yield wrong(
                "identity.audience", subject, f"the endpoint is of {host}, the audience is {destination.audience!r}"
            )


def _tenant(subject: str, tenant: str, claims: Mapping[str, Any]) -> Iterator[Finding]:
    given = str(claims.get("tid", ""))
    if tenant and given and re.fullmatch(r"[0-9a-fA-F-]{36}", tenant) and given.lower() != tenant.lower():
        yield wrong("identity.tenant", subject, f"the token is of tenant {given}, AZURE_TENANT_ID is {tenant}")


def _times(subject: str, claims: Mapping[str, Any], now: float) -> Iterator[Finding]:
    ends, begins = claims.get("exp"), claims.get("nbf", claims.get("iat"))
    if isinstance(ends, int | float) and ends - now < SOON_S:
        left = f"has expired {now - ends:.0f} s ago" if ends <= now else f"ends in {ends - now:.0f} s"
        yield (wrong if ends <= now else doubt)("identity.expiry", subject, f"the token {left}")
    if isinstance(begins, int | float) and begins - now > REFUSED_S:
        yield wrong("clock.ours", subject, f"the token begins in {begins - now:.0f} s: our clock is behind")
