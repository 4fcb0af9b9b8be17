"""Security-tool coverage read from free-form fields: which names mean which kind of tool, as data.

Invariant: a field only counts when its name is that of a tool and its value plainly says yes or no; anything else leaves coverage unknown (null),
because "not known" and "not covered" are different answers to a responder.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

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
    key = pl.element().struct.field("key").str.to_lowercase().str.replace_all(r"[^a-z]", "")
    value = pl.element().struct.field("value").str.strip_chars()
    answers: dict[str, pl.Expr] = {}
    tools = []
    for kind in KINDS:
        prefixes = "|".join(prefix for prefix, (of, _) in TOOLS.items() if of == kind)
        of_kind = key.str.contains(f"^(?:{prefixes})")
        yes = fields.list.eval(of_kind & value.str.contains(_YES)).list.any()
        no = fields.list.eval(of_kind & value.str.contains(_NO)).list.any()
        answers[kind] = pl.when(yes).then(pl.lit(value=True)).when(no).then(pl.lit(value=False))
    for prefix, (_, tool) in TOOLS.items():
        has = fields.list.eval(key.str.starts_with(prefix) & value.str.contains(_YES)).list.any()
        tools.append(pl.when(has).then(pl.lit(tool)))
    named = pl.concat_list(tools).list.drop_nulls()
    return {**answers, "SecurityTools": pl.when(named.list.len() > 0).then(named)}
