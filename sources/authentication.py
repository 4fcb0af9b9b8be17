"""Ways of proving who sends a request: constant headers, Basic, and a login that exchanges a secret for a token.

Invariant: secrets come in as values from the settings and go out only into headers and the login's body; no error names them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from contracts import Stop
from sources.model import Request


@dataclass(frozen=True, slots=True)
class Headers:
    """Constant headers, each a format string over the secrets: `{"Authorization": "Bearer {api_key}"}`."""

    formats: Mapping[str, str]

    def headers(self, secrets: Mapping[str, str]) -> dict[str, str]:
        """The formats filled in."""
        return {name: text.format_map(secrets) for name, text in self.formats.items()}

    def login(self, secrets: Mapping[str, str]) -> Request | None:  # noqa: ARG002 - the protocol's
        """Nothing to exchange."""
        return None

    def token_headers(self, status: int, body: bytes) -> tuple[dict[str, str], float]:
        """Never asked, as there is no login."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Basic:
    """HTTP Basic (RFC 7617), UTF-8."""

    user: str
    password: str

    def headers(self, secrets: Mapping[str, str]) -> dict[str, str]:
        """The Authorization header from the secrets of these names."""
        pair = f"{secrets[self.user]}:{secrets[self.password]}"
        return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}

    def login(self, secrets: Mapping[str, str]) -> Request | None:  # noqa: ARG002 - the protocol's
        """Nothing to exchange."""
        return None

    def token_headers(self, status: int, body: bytes) -> tuple[dict[str, str], float]:
        """Never asked, as there is no login."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Login:
    """A login request whose answer holds a token; sent again when the token has expired or is refused."""

    path: str
    body: Mapping[str, str]
    token_path: tuple[str, ...]
    header: str = "Authorization"
    scheme: str = "Bearer {token}"
    holds_s: float = 3_000.0

    def headers(self, secrets: Mapping[str, str]) -> dict[str, str]:  # noqa: ARG002 - the protocol's
        """None before the login."""
        return {}

    def login(self, secrets: Mapping[str, str]) -> Request | None:
        """The exchange, with the secrets in its JSON body."""
        return Request("POST", self.path, json={key: text.format_map(secrets) for key, text in self.body.items()})

    def token_headers(self, status: int, body: bytes) -> tuple[dict[str, str], float]:
        """The token of the answer, as the header that every request carries."""
        try:
            token = msgspec.json.decode(body)
            for key in self.token_path:
                token = token[key]
            token = msgspec.convert(token, str)
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise Stop(
                f"the login at {self.path} answered {status} without a token at {'.'.join(self.token_path)}",
                "check the source's URL: is it the product's API?",
            ) from error
        return {self.header: self.scheme.format(token=token)}, self.holds_s
