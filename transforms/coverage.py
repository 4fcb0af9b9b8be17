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


def answers(fields: pl.Expr) -> pl.Expr:
    """What a list of structs {key, value} of text says about tools, as texts such as "+jamf" or "-edr": few, so that asking for each kind is cheap."""
    word = pl.element().struct.field("key").str.to_lowercase().str.replace_all(r"[^a-z]", "")
    value = pl.element().struct.field("value").str.strip_chars()
    sign = pl.when(value.str.contains(_YES)).then(pl.lit("+")).when(value.str.contains(_NO)).then(pl.lit("-"))
    tool = word.str.extract(f"^({'|'.join(TOOLS)})", 1)
    return values.present(fields.list.eval(pl.concat_str(sign, tool)))


def columns(said: pl.Expr) -> dict[str, pl.Expr]:
    """The coverage booleans and SecurityTools from a column of `answers`."""
    names = {f"+{prefix}": tool for prefix, (_, tool) in TOOLS.items()}
    tools = said.list.eval(pl.element().replace_strict(names, default=None, return_dtype=pl.String))
    # In one order, whatever the order of the fields: a field that moves is no change.
    named = values.distinct(values.present(tools).list.sort())
    return {kind: _covered(said, kind) for kind in KINDS} | {"SecurityTools": named}


def _covered(said: pl.Expr, kind: str) -> pl.Expr:
    of_kind = [prefix for prefix, (of, _) in TOOLS.items() if of == kind]
    yes, no = (said.list.eval(pl.element().is_in([sign + prefix for prefix in of_kind])).list.any() for sign in "+-")
    return pl.when(yes).then(pl.lit(value=True)).when(no).then(pl.lit(value=False))
