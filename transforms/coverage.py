"""Security-tool coverage read from free-form fields: which names mean which kind of tool, as data.

Invariant: a field only counts when its name is that of a tool and its value plainly says yes or no; anything else leaves coverage unknown (null),
because "not known" and "not covered" are different answers to a responder.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from transforms import values

TOOLS: Mapping[str, tuple[str, str]] = {
    "sentinelone": ("HasEdr", "SentinelOne"),
    "crowdstrike": ("HasEdr", "CrowdStrike Falcon"),
    "carbonblack": ("HasEdr", "Carbon Black"),
    "cortexxdr": ("HasEdr", "Cortex XDR"),
    "defenderforendpoint": ("HasEdr", "Microsoft Defender for Endpoint"),
    "edr": ("HasEdr", "EDR"),
    "qualys": ("HasVulnerabilityScanner", "Qualys"),
    "nessus": ("HasVulnerabilityScanner", "Nessus"),
    "veeam": ("HasBackup", "Veeam"),
    "rubrik": ("HasBackup", "Rubrik"),
    "backup": ("HasBackup", "Backup"),
    "intune": ("HasMdm", "Microsoft Intune"),
    "jamf": ("HasMdm", "Jamf"),
    "mdm": ("HasMdm", "MDM"),
}
"""A field's name, lower case and letters only, begins with one of these."""

KINDS = ("HasEdr", "HasVulnerabilityScanner", "HasBackup", "HasMdm")

_YES = r"^(?i:yes|true|y|1|active|installed|enabled|covered|protected)$"
_NO = r"^(?i:no|false|n|0|inactive|missing|disabled|none|not installed)$"


def columns(fields: pl.Expr) -> dict[str, pl.Expr]:
    """The coverage booleans and SecurityTools from a list of structs {key, value} of text."""
    word = pl.element().struct.field("key").str.to_lowercase().str.replace_all(r"[^a-z]", "")
    value = pl.element().struct.field("value").str.strip_chars()
    sign = pl.when(value.str.contains(_YES)).then(pl.lit("+")).when(value.str.contains(_NO)).then(pl.lit("-"))
    # The answers of a record as texts such as "+jamf": few, so that asking for each tool is cheap.
    tool = word.str.extract(f"^({'|'.join(TOOLS)})", 1)
    answers = fields.list.eval(pl.concat_str(sign, tool))
    return {kind: _covered(answers, kind) for kind in KINDS} | {"SecurityTools": _named(answers)}


def _covered(answers: pl.Expr, kind: str) -> pl.Expr:
    of_kind = [prefix for prefix, (of, _) in TOOLS.items() if of == kind]
    yes, no = (answers.list.eval(pl.element().is_in([sign + prefix for prefix in of_kind])).list.any() for sign in "+-")
    return pl.when(yes).then(pl.lit(value=True)).when(no).then(pl.lit(value=False))


def _named(answers: pl.Expr) -> pl.Expr:
    tools = [pl.when(answers.list.contains(f"+{prefix}")).then(pl.lit(tool)) for prefix, (_, tool) in TOOLS.items()]
    return values.one(*tools)
