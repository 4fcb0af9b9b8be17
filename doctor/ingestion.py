"""Whether the data collection rule takes our rows: an empty array to every stream of it, which authorises like any body and stores nothing.

Invariant: no row is sent. What the service answers to an empty array is not documented; identity, rule and role are judged before a body is (the
troubleshooting guides of its SDKs), so any answer but those about them says that they are right.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from doctor.clocks import our_clock
from doctor.findings import Finding, doubt, fine, wrong
from doctor.identity import in_short, kind_of
from doctor.reach import WORDS, unreachable
from sentinel.ingestion import REDIRECTS, Answer, Door
from settings import DestinationSettings


def _gzipped(text: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(text) + packer.flush()


EMPTY: Final = _gzipped(b"[]")

_OF_A_STREAM: Final = frozenset({"dcr.stream"})
"""What may be wrong with one stream and not with another; anything else is wrong with all."""


def ingestion_findings(
    destination: DestinationSettings, doors: Sequence[Door], now: Callable[[], float]
) -> Iterator[Finding]:
    """Of each rule of the destination and each stream, and our clock against the endpoint's."""
    for rule, door in zip(destination.rule_ids, doors, strict=True):
        accepted = 0
        for stream in destination.streams.values():
            answer = door.sink.post(stream, EMPTY)
            found = _judged(destination, rule, stream, answer)
            if found is None:
                accepted += 1
                continue
            yield found
            if found.id not in _OF_A_STREAM:
                break
        if answer.served_at:
            yield from our_clock(destination.name, answer.served_at, now())
        if accepted == len(destination.streams):
            yield fine("dcr.role", rule, f"{accepted} streams take an empty post ({answer.status})")


def _judged(destination: DestinationSettings, rule: str, stream: str, answer: Answer) -> Finding | None:
    """What an answer says; None when all is well."""
    if answer.status <= 0:
        if answer.message.startswith("no token"):
            return wrong(
                kind_of(answer.message), rule, f"no token: {in_short(answer.message.removeprefix('no token: '))}"
            )
        word = unreachable(answer.message)
        return wrong("dcr.tls" if word == "tls" else "dcr.reach", destination.endpoint, WORDS[word])
    seen = f"{answer.status}: {answer.message}"
    if answer.status in REDIRECTS:
        return wrong("dcr.reach", destination.endpoint, f"{answer.status}: it leads elsewhere, and is not followed")
    if answer.status in {204, 200, 202, 413}:
        return None
    if answer.status in {400, 404}:
        return _of_names(rule, stream, answer, seen)
    kinds = {401: (wrong, "dcr.token"), 403: (wrong, "dcr.role"), 429: (doubt, "dcr.limited")}
    say, kind = kinds.get(answer.status, (doubt, "dcr.trouble"))
    return say(kind, rule, seen)


def _of_names(rule: str, stream: str, answer: Answer, seen: str) -> Finding | None:
    """400 or 404: the rule or the stream is not known; any other 400 is about the empty array, behind everything that matters here."""
    words = answer.message.lower()
    if "immutable" in words or rule.lower() in words:
        return wrong("dcr.rule", rule, seen)
    if "stream" in words:
        return wrong("dcr.stream", stream, seen)
    return wrong("dcr.rule", rule, seen) if answer.status == 404 else None
