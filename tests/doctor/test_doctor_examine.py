"""The examination itself: in time whatever a check does, in order, without a secret."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from doctor.examine import Check, examine
from doctor.findings import Finding, Report, fine, published, wrong


def unchanged(text: str) -> str:
    return text


def test_a_check_that_hangs_holds_up_nothing() -> None:
    """It is late; the others are told, in the order of the checks, and what it had found before counts."""
    forever = threading.Event()

    def hangs() -> Iterator[Finding]:
        yield fine("dcr.role", "first", "found before")
        forever.wait(30)

    report = examine(
        [Check("hangs", hangs, 1.0), Check("quick", lambda: [fine("storage.role", "c", "")])], 20, unchanged
    )
    forever.set()
    assert [(finding.id, finding.subject) for finding in report.findings] == [
        ("dcr.role", "first"),
        ("check.late", "hangs"),
        ("storage.role", "c"),
    ]
    assert report.status == "error"


def test_the_budget_ends_every_check() -> None:
    """The platform ends a request after 230 s, so the route has a budget of its own."""
    forever = threading.Event()
    report = examine([Check(f"c{n}", lambda: [forever.wait(30)]) for n in range(5)], 0.2, unchanged)  # type: ignore[list-item]  # it never gives one
    forever.set()
    assert [finding.id for finding in report.findings] == ["check.late"] * 5
    assert report.seconds < 5


def test_a_check_that_breaks_is_told() -> None:
    """A fault of the doctor's own is no health, and its text is redacted like any other."""

    def breaks() -> Iterator[Finding]:
        yield fine("dcr.role", "first", "")
        raise KeyError("canary")

    report = examine([Check("broken", breaks)], 5, lambda text: text.replace("canary", "***"))
    assert [finding.id for finding in report.findings] == ["dcr.role", "check.broke"]
    assert report.findings[1].seen == "KeyError: '***'"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("https://x/api?code=abc&sig=def%3D", "https://x/api?code=***&sig=***"),
        ("Bearer abc.def", "Bearer ***"),
        ("AccountKey=abc==;Blob", "AccountKey=***;Blob"),
        ("a eyJhbGciOi.eyJhdWQi.sig-_x b", "a *** b"),
        ("http://user:pass@proxy:8080", "http://***@proxy:8080"),
        ("client_secret=s3cr3t&x", "client_secret=***&x"),
        ("two\nlines", "two lines"),
    ],
)
def test_what_looks_like_a_credential_is_taken_out(said: str, shown: str) -> None:
    """Also such as no setting of ours holds."""
    (found,) = published([wrong("dcr.trouble", said, said)], unchanged)
    assert (found.subject, found.seen) == (shown, shown)


def test_a_page_of_text_is_cut() -> None:
    """An answer may be a page of HTML."""
    (found,) = published([wrong("dcr.trouble", "x", "y" * 5000)], unchanged)
    assert len(found.seen) < 500


def test_a_report_is_as_bad_as_its_worst() -> None:
    """And an empty one is well."""
    assert Report((), 0.0).status == "ok"
    assert Report((fine("dcr.role", "", ""), wrong("dcr.role", "", "")), 0.0).status == "error"
