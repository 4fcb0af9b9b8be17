"""What a data collection rule can run of KQL, which is a closed list, and whether a transformation's result fits its table.

Source of the lists: Azure Monitor, supported KQL features in transformations (data-collection-transformations-kql, 2026-01-20). What the lists do not
name is refused, also where the service may be kinder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from local.kqlcheck import Analysis, Finding, Query, analyse, contract
from sentinel.content import LEAN_TRANSFORMS_DIRECTORY, KqlTransform, transforms

OPERATORS: Final = frozenset(
    {
        "ExtendOperator",
        "ProjectOperator",
        "PrintOperator",
        "FilterOperator",
        "ParseOperator",
        "ProjectAwayOperator",
        "ProjectRenameOperator",
        "LetStatement",
        "ExpressionStatement",
    }
)
"""The language service's names of extend, project, print, where, parse, project-away, project-rename, let, and of an expression by itself."""

SYMBOLS: Final = frozenset(
    """
    + - * / % < > <= >= and or == != =~ !~ contains !contains contains_cs !contains_cs has !has has_cs !has_cs startswith !startswith startswith_cs
    !startswith_cs endswith !endswith endswith_cs !endswith_cs in !in
    """.split()  # noqa: SIM905 - a list in words reads better
) | {"matches regex"}

FUNCTIONS: Final = frozenset(
    """
    columnifexists parse_cef_dictionary geo_location
    binary_and binary_or binary_not binary_shift_left binary_shift_right binary_xor
    tobool todatetime todouble toreal toguid toint tolong tostring totimespan
    ago datetime_add datetime_diff datetime_part dayofmonth dayofweek dayofyear endofday endofmonth endofweek endofyear getmonth getyear hourofday
    make_datetime make_timespan now startofday startofmonth startofweek startofyear weekofyear
    array_concat array_length pack_array pack parse_json parse_xml zip
    abs bin floor ceiling exp exp10 exp2 isfinite isinf isnan log log10 log2 pow round sign
    case iif max_of min_of
    base64_encodestring base64_decodestring countof extract extract_all indexof isempty isnotempty split strcat strcat_delim strlen substring tolower
    toupper hash_sha256
    gettype isnotnull isnull
    """.split()  # noqa: SIM905 - as above
)

LENGTH_LIMIT: Final = 15_360
"""Characters of a transformation (Azure Monitor limits, data collection rules)."""


def check() -> list[Finding]:
    """Everything that is wrong with the transformations of sentinel/content."""
    shipped = [*transforms().values(), *transforms(LEAN_TRANSFORMS_DIRECTORY).values()]
    return [found for findings in examine(shipped) for found in findings]


def examine(given: Iterable[KqlTransform]) -> list[list[Finding]]:
    """Of each transformation everything that is wrong with it, in their order."""
    known = list(given)
    schema = contract()
    queries = [Query(one.stream, one.body, source=schema["streams"].get(one.stream, {})) for one in known]
    return [
        [*analysis.findings, *_subset(one, analysis), *_result(one, analysis, schema["tables"])]
        for one, analysis in zip(known, analyse(queries), strict=True)
    ]


def _subset(transform: KqlTransform, analysis: Analysis) -> list[Finding]:
    uses = (
        ("DCR001", "operator", analysis.operators, OPERATORS),
        ("DCR002", "comparison", analysis.symbols, SYMBOLS),
        ("DCR003", "function", analysis.calls, FUNCTIONS),
    )
    found = [
        Finding(transform.stream, code, f"the {what} {name} is not usable in a transformation")
        for code, what, names, known in uses
        for name in names
        if name not in known
    ]
    if len(transform.body) > LENGTH_LIMIT:
        found.append(
            Finding(transform.stream, "DCR004", f"{len(transform.body)} characters, at most {LENGTH_LIMIT} can be")
        )
    return found


def _result(transform: KqlTransform, analysis: Analysis, tables: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """The columns of the result against those of the table: each is one of them and of its type, TimeGenerated among them."""
    stream, table = transform.stream, tables.get(transform.table)
    if table is None:
        return [Finding(stream, "DCR005", f"there is no table {transform.table}")]
    found = []
    for name, kind in analysis.columns.items():
        if name not in table:
            found.append(Finding(stream, "DCR006", f"{transform.table} has no column {name}: drop it"))
        elif kind not in {table[name], "unknown"}:
            found.append(Finding(stream, "DCR007", f"{name} is {kind}, in {transform.table} it is {table[name]}"))
    if "TimeGenerated" not in analysis.columns:
        found.append(Finding(stream, "DCR008", "the result has no TimeGenerated"))
    return found
