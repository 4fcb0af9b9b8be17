"""The payload limits of Azure that a laptop would otherwise never meet.

Invariant: what passes here passes Durable Task Scheduler, so no run fails in Azure for a size that worked locally.
"""

CUSTOM_STATUS_BYTES = 16 * 1024
"""Of UTF-16; Durable extension, DurableOrchestrationContext.SetCustomStatus."""

PAYLOAD_BYTES = 1024 * 1024
"""Durable Task Scheduler's limit on each orchestrator and activity input and output and each event's data (UTF-8)."""


class PayloadTooLargeError(ValueError):
    """An input, output or custom status that Azure would refuse."""


def check_payload(what: str, text: str | None) -> None:
    """Raise PayloadTooLargeError when `text`, the JSON of `what`, exceeds PAYLOAD_BYTES."""
    if text is None or len(text) * 4 <= PAYLOAD_BYTES:  # no character takes more than 4 bytes of UTF-8
        return
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > PAYLOAD_BYTES:
        raise PayloadTooLargeError(
            f"{what} is {size:,} bytes of JSON; Durable Task Scheduler takes at most {PAYLOAD_BYTES:,}. "
            "Put the data in a blob and pass its name."
        )


def check_custom_status(text: str | None) -> None:
    """Raise PayloadTooLargeError, in the extension's words, when the JSON of a custom status exceeds 16 KB of UTF-16."""
    if text is None or len(text) * 4 <= CUSTOM_STATUS_BYTES:
        return
    size = len(text.encode("utf-16-le", "surrogatepass"))
    if size > CUSTOM_STATUS_BYTES:
        raise PayloadTooLargeError(
            "The UTF-16 size of the JSON-serialized payload must not exceed 16 KB. "
            f"The current payload size is {size // 1024} KB."
        )
