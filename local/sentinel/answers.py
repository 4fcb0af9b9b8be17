"""The refusals of the Logs Ingestion API and of the query API, as the service words them.

One refusal is one value: status, code, message and the headers that go with it. Where no primary source gives the service's words,
the constructor says [G] (a guess) beside them, so that nobody builds on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

API_VERSIONS: Final = frozenset({"2023-01-01", "2023-04-01-preview"})
"""Versions of the Logs Ingestion API that have a published specification (azure-rest-api-specs)."""

DEFAULT_DCR: Final = "dcr-00000000000000000000000000000000"
"""Immutable id of the rule that is served when nobody names another."""


@dataclass(eq=False)
class Refusal(Exception):
    """An answer other than success: HTTP status, `x-ms-error-code` (empty when the service gives none), message, headers."""

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The JSON body: the error shape of the specification."""
        return {"error": {"code": self.code, "message": self.message}}

    def all_headers(self) -> dict[str, str]:
        """The headers, `x-ms-error-code` included where there is a code."""
        return {**({"x-ms-error-code": self.code} if self.code else {}), **self.headers}


def unauthenticated(reason: str) -> Refusal:
    """401: no bearer token, or one that is not accepted ([G] for the text)."""
    return Refusal(401, "AuthenticationFailed", reason, {"WWW-Authenticate": "Bearer"})


def forbidden(dcr: str) -> Refusal:
    """403 as in the troubleshooting guide of the SDK: the identity lacks Monitoring Metrics Publisher on the rule."""
    return Refusal(
        403,
        "OperationFailed",
        f"The authentication token provided does not have access to ingest data for the data collection rule with immutable Id '{dcr}' "
        "PipelineAccessResult: AccessGranted: False, IsRbacPresent: False, IsDcrDceBindingValid: , DcrArmId: , Message: .",
    )


def no_such_rule(dcr: str) -> Refusal:
    """404 for an immutable id that is no data collection rule (azure-sdk-for-js tests)."""
    return Refusal(404, "NotFound", f"Data collection rule with immutable Id '{dcr}' not found.")


def no_such_stream(stream: str) -> Refusal:
    """400 for a stream that the rule does not declare ([G]: no primary source for code or text)."""
    return Refusal(400, "InvalidStream", f"Stream '{stream}' is not declared in the data collection rule.")


def bad_version(version: str) -> Refusal:
    """400 for an API version that does not exist ([G] for the text)."""
    return Refusal(400, "UnsupportedApiVersion", f"The api-version '{version}' is not supported.")


def bad_content_type(content_type: str) -> Refusal:
    """415 for anything but JSON ([G] for code and text)."""
    return Refusal(
        415, "UnsupportedMediaType", f"Content-Type must be application/json; the request has '{content_type}'."
    )


def bad_encoding(reason: str) -> Refusal:
    """400 for a Content-Encoding other than gzip, or gzip that does not decompress ([G] for code and text)."""
    return Refusal(400, "InvalidContentEncoding", reason)


def bad_payload(reason: str) -> Refusal:
    """400 for a body that is not a JSON array of objects ([G] for code and text)."""
    return Refusal(400, "InvalidPayload", f"Malformed JSON payload: {reason}")


def too_long(length: int, limit: int) -> Refusal:
    """413 of the gateway, in its own words (azure-sdk-for-net tests; AzADServicePrincipalInsights#30)."""
    return Refusal(
        413,
        "ContentLengthLimitExceeded",
        f"Maximum allowed content length: {limit} bytes ({limit / 1_048_576:.0f} MB). Provided content length: {length} bytes.",
    )


def too_large(length: int, limit: int) -> Refusal:
    """413 of the check behind the gateway, on decompressed bytes (open-telemetry/otel-arrow#2535; [G] for the text)."""
    return Refusal(
        413,
        "PayloadSizeLimitExceeded",
        f"Maximum allowed decompressed size: {limit} bytes. The payload has at least {length} bytes.",
    )


def empty_body() -> Refusal:
    """500 without a code: what the service answers to an empty body (azure-sdk-for-net live tests)."""
    return Refusal(500, "", "Service request failed")


def throttled(retry_after_s: int | None) -> Refusal:
    """429, with `Retry-After` unless the caller leaves it out ([G] for the text)."""
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return Refusal(429, "TooManyRequests", "The data collection rule's ingestion limit was reached.", headers)


def generic(status: int) -> Refusal:
    """Any other status, for faults and scripted answers."""
    return Refusal(status, {408: "RequestTimeout", 503: "ServiceUnavailable"}.get(status, ""), "Service request failed")


def bad_query(inner_code: str, message: str) -> dict[str, Any]:
    """The body of a refused query: BadArgumentError around an inner error (Azure Monitor Log Analytics API errors)."""
    return {
        "error": {
            "message": "The request had some invalid properties",
            "code": "BadArgumentError",
            "innererror": {"code": inner_code, "message": message},
        }
    }
