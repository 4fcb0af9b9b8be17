"""What is generated from the table contract agrees with it."""

from __future__ import annotations

from sentinel.reference import PAGE, markdown


def test_the_column_reference_is_that_of_the_contract() -> None:
    """docs/columns.md is what `make generate` writes."""
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run `make generate`"
