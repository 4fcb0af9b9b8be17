"""Reads resources through Azure Resource Manager: one GET, no client library, for whoever has Reader on them.

Invariant: nothing is written; the token goes into a header and nowhere else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import urllib3

from contracts import CaasmError, JsonDict, Stop, TryAgain
from sentinel.ingestion import kinds_of

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

TIMEOUT_S: Final = 10.0


class NotThereError(CaasmError):
    """There is no such resource."""


class NotAllowedError(CaasmError):
    """The identity may not read it, or there is no identity."""


@dataclass(slots=True)
class Management:
    """The management API of a cloud, with a credential that may read."""

    endpoint: str
    credential: TokenCredential
    pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False))

    def get(self, resource_id: str, api_version: str) -> JsonDict:
        """The resource. Raises NotThereError, NotAllowedError, TryAgain when there is no answer, Stop for an answer that is none."""
        from azure.core.exceptions import AzureError

        try:
            token = self.credential.get_token(f"{self.endpoint}/.default").token
        except AzureError as error:
            raise NotAllowedError(f"no token for {self.endpoint}: {error}") from error
        path = quote(f"/{resource_id.strip('/')}")
        try:
            answer = self.pool.request(
                "GET",
                f"{self.endpoint}{path}?api-version={api_version}",
                headers={"Authorization": f"Bearer {token}"},
                timeout=TIMEOUT_S,
                redirect=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TryAgain(f"{self.endpoint} cannot be reached ({kinds_of(error)})") from error
        if answer.status == 404:
            raise NotThereError(f"{resource_id} is not there")
        if answer.status in {401, 403}:
            raise NotAllowedError(f"{answer.status} to reading {resource_id}")
        if answer.status != 200:
            raise TryAgain(f"{answer.status} to reading {resource_id}")
        try:
            found = json.loads(answer.data)
        except ValueError as error:
            raise Stop(f"{self.endpoint} answers something else than JSON") from error
        if not isinstance(found, dict):
            raise Stop(f"{self.endpoint} answers something else than a resource")
        return found
