"""Questions that a SOC asks of a fresh inventory, in KQL; `make run` ends with their answers.

Invariant: each reads the newest run of each source only, and each runs on the emulator's KQL engine.
"""

from __future__ import annotations

from typing import NamedTuple


class Question(NamedTuple):
    """A question in words and in KQL."""

    words: str
    kql: str


QUESTIONS = (
    Question(
        "Which critical internet-facing assets have no EDR?",
        """
        CAASM_Assets_CL
        | where Criticality == 'Critical' and IsInternetFacing == true and HasEdr == false
        | summarize arg_max(TimeGenerated, *) by AssetId
        | project AssetName, AssetType, DvcIpAddr, Environment, OwnerName, EntityProduct
        | order by AssetName asc
        | take 5
        """,
    ),
    Question(
        "Which assets on the internet have the most open critical findings that an exploit exists for?",
        """
        CAASM_Findings_CL
        | where FindingStatus == 'Open' and Severity == 'Critical' and IsExploitAvailable == true
        | summarize arg_max(TimeGenerated, *) by FindingId
        | join kind=inner (
            CAASM_Assets_CL
            | where IsInternetFacing == true
            | summarize arg_max(TimeGenerated, *) by AssetId
            | project AssetId, AssetType
          ) on AssetId
        | summarize Findings=count(), LastSeen=max(LastSeen) by AssetName, AssetType
        | order by Findings desc, AssetName asc
        | take 5
        """,
    ),
    Question(
        "Where is coverage known, and how good is it?",
        """
        CAASM_Assets_CL
        | summarize arg_max(TimeGenerated, *) by AssetId
        | summarize Assets=count(), WithEdr=countif(HasEdr == true), WithoutEdr=countif(HasEdr == false),
                    Scanned=countif(HasVulnerabilityScanner == true) by EntityProduct, Environment
        | order by Assets desc
        | take 8
        """,
    ),
)
