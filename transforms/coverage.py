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


_VERDICTS = pl.Struct({**dict.fromkeys(KINDS, pl.Boolean()), "SecurityTools": pl.List(pl.String)})


def verdicts(fields: pl.Expr) -> pl.Expr:
    """What a list of structs {key, value} of text says about tools, for `columns`. Names and answers repeat, and so does what they say together."""
    tool = values.once_each(pl.element().struct.field("key"), _tools)
    sign = values.once_each(pl.element().struct.field("value"), _signs)
    answers = fields.list.eval(pl.concat_str(sign, tool)).list.join(" ")
    return values.once_each(
        answers, lambda said: pl.Series([_verdict(one) for one in said], dtype=_VERDICTS), _VERDICTS
    )


def columns(said: pl.Expr) -> dict[str, pl.Expr]:
    """The coverage booleans and SecurityTools from a column of `verdicts`."""
    return {name: said.struct.field(name) for name in (*KINDS, "SecurityTools")}


def _tools(names: pl.Series) -> pl.Series:
    return names.str.to_lowercase().str.replace_all(r"[^a-z]", "").str.extract(f"^({'|'.join(TOOLS)})", 1)


def _signs(answers: pl.Series) -> pl.Series:
    plain = pl.lit(answers.str.strip_chars())
    sign = pl.when(plain.str.contains(_YES)).then(pl.lit("+")).when(plain.str.contains(_NO)).then(pl.lit("-"))
    return pl.select(sign).to_series()


def _verdict(said: str | None) -> dict[str, bool | list[str] | None]:
    """Of answers such as "+jamf -edr"."""
    answers = [(answer[0] == "+", *TOOLS[answer[1:]]) for answer in (said or "").split()]
    told = {kind: [yes for yes, of, _ in answers if of == kind] for kind in KINDS}
    # In one order, whatever the order of the fields: a field that moves is no change.
    tools = sorted({tool for yes, _, tool in answers if yes})
    return {**{kind: any(yes) if yes else None for kind, yes in told.items()}, "SecurityTools": tools or None}
