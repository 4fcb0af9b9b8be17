"""Tokens as a managed identity gets them (App Service, api-version 2019-08-01), and what the ingestion endpoint says to one that is not for it.

Invariant: a token is an unsigned JSON web token; a bearer of another shape is taken as it is, so that a fixed text will do where the identity is no matter.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from time import time
from typing import Any, Final

from aiohttp import web

from local.sentinel import answers

HEADER: Final = "local"
"""What X-IDENTITY-HEADER has to be."""

AUDIENCES: Final = frozenset({"https://monitor.azure.com", "https://monitor.azure.us", "https://monitor.azure.cn"})

TENANT: Final = "11111111-1111-1111-1111-111111111111"


@dataclass(frozen=True, slots=True)
class Identity:
    """What its tokens say. `audience`: instead of the resource that was asked for; `refusal`: why there is no token."""

    oid: str = "local"
    tenant: str = TENANT
    audience: str = ""
    lifetime_s: float = 3600.0
    refusal: str = ""

    async def token(self, request: web.Request) -> web.Response:
        """GET /msi/token?resource=…"""
        if request.headers.get("X-IDENTITY-HEADER") != HEADER:
            return web.json_response({"statusCode": 401, "message": "X-IDENTITY-HEADER is not this app's"}, status=401)
        if self.refusal:
            return web.json_response({"statusCode": 400, "message": self.refusal}, status=400)
        resource, now = request.query.get("resource", ""), int(time())
        claims = {"aud": self.audience or resource, "tid": self.tenant, "oid": self.oid}
        ends = now + int(self.lifetime_s)
        token = encode({**claims, "nbf": min(now, ends) - 300, "exp": ends})
        return web.json_response(
            {"access_token": token, "expires_on": str(ends), "resource": resource, "token_type": "Bearer"}
        )


def encode(claims: dict[str, Any]) -> str:
    """The claims as an unsigned token."""
    parts = (json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, claims))
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), "unsigned"])


def admit(token: str) -> str:
    """Whose token it is: the object id of its claims, or the token itself. Raises Refusal (401) when it is for something else, or has ended."""
    claims = _claims(token)
    if claims is None:
        return token
    if str(claims.get("aud", "")).rstrip("/") not in AUDIENCES:
        raise answers.unauthenticated(f"The token's audience {claims.get('aud')!r} is invalid.")
    if float(claims.get("exp", 0)) <= time():
        raise answers.unauthenticated("The access token expired.")
    return str(claims.get("oid", ""))


def _claims(token: str) -> dict[str, Any] | None:
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    return found if isinstance(found, dict) else None
