"""`CAASM_Findings_CL`, the scale of its severities, and the stream by which other senders report findings.

Invariant: a column of the reports that a finding has too is that column; the rule makes the rest (sentinel/content).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sentinel.contract import Column, Stream, Table
from sentinel.tables.envelope import ENVELOPE, FIELDS_TRUNCATED, SOURCE_UPDATED_AT

SEVERITIES: Final = ("Critical", "High", "Medium", "Low", "Informational", "Unknown")
"""The five levels of `Severity`, and Unknown for what no profile can read."""

EVENT_SEVERITY: Final = {
    "Critical": "High",
    "High": "High",
    "Medium": "Medium",
    "Low": "Low",
    "Informational": "Informational",
    "Unknown": "Informational",
}
"""Five levels to ASIM's EventSeverity, which has no Critical and no Unknown."""

FINDINGS: Final = Table(
    name="CAASM_Findings_CL",
    stream="Custom-CAASM_Findings",
    key="FindingId",
    description="One row per finding and run: vulnerabilities, misconfigurations, missing controls, exposures.",
    columns=(
        *ENVELOPE,
        Column(
            "FindingId",
            "string",
            "Key of the finding: <source>:<the product's identifier, or what makes it unique>. Stable between runs.",
            "tenable:5f0e5d2c-7c0a-4c1e-9f39-2f1d0b7f6a11:187315:22:tcp",
        ),
        Column(
            "AssetId",
            "string",
            "The asset that the finding is on; joins to AssetId of CAASM_Assets_CL, which need not have it.",
            "tenable:5f0e5d2c-7c0a-4c1e-9f39-2f1d0b7f6a11",
        ),
        Column("AssetName", "string", "The asset's name as the finding gives it.", "web-07"),
        Column("FindingTitle", "string", "Short text of what was found.", "SSH Terrapin Prefix Truncation Weakness"),
        Column(
            "FindingType",
            "string",
            "Vulnerability, Misconfiguration, Exposure, Compromise, Missing Control, Information or Other.",
            "Vulnerability",
        ),
        Column("OriginalFindingType", "string", "The type or family in the product's own words.", "Misc."),
        Column(
            "DetectionId",
            "string",
            "The product's identifier of the check that found it (plugin, rule, CVE).",
            "187315",
        ),
        Column(
            "Description",
            "string",
            "What it means.",
            "The remote SSH server is vulnerable to a mitm prefix truncation attack.",
        ),
        Column(
            "Solution",
            "string",
            "What to do about it.",
            "Contact the vendor for an update with the strict key exchange countermeasures.",
        ),
        Column(
            "Evidence",
            "string",
            "What the check saw; may be long, then it is cut and named in FieldsTruncated.",
            "Supports following ChaCha20-Poly1305 Client to Server algorithm : chacha20-poly1305@openssh.com",
        ),
        Column(
            "Severity",
            "string",
            "Critical, High, Medium, Low, Informational, or Unknown when no profile can read it.",
            "High",
        ),
        Column(
            "EventSeverity",
            "string",
            "The same on ASIM's four levels (Critical is High, Unknown is Informational).",
            "High",
            asim="EventSeverity",
        ),
        Column(
            "EventOriginalSeverity",
            "string",
            "The text or number that Severity was read from.",
            "high",
            asim="EventOriginalSeverity",
        ),
        Column("SeverityBasis", "string", "What decided: label, number, cvss, or none.", "label"),
        Column("CveId", "string", "The first CVE; all of them are in CveIds.", "CVE-2023-48795"),
        Column("CveIds", "dynamic", "Every CVE of the finding.", ("CVE-2023-48795",)),
        Column("CvssScore", "real", "CVSS base score, 0 to 10; version 3 where there is one, else version 2.", 5.9),
        Column("CvssVersion", "string", "Version of CVSS that the score is of, e.g. 3 or 2.", "3"),
        Column("CvssVector", "string", "CVSS base vector.", "AV:N/AC:H/PR:N/UI:N/S:U/C:N/I:H/A:N"),
        Column(
            "EpssScore", "real", "Probability of exploitation, 0 to 1 (FIRST EPSS), where the product gives it.", 0.53
        ),
        Column("RiskScore", "real", "The product's own score of the finding, on its own scale.", 7.4),
        Column("IsKnownExploited", "boolean", "Known to be exploited; absent when the product cannot tell.", True),
        Column("IsExploitAvailable", "boolean", "An exploit is available; absent when the product cannot tell.", True),
        Column("FindingStatus", "string", "Open, Fixed, Accepted or Unknown.", "Open"),
        Column("OriginalStatus", "string", "The state in the product's own words.", "REOPENED"),
        Column("Port", "int", "Port that the finding is on; absent when it is on none.", 22),
        Column("Protocol", "string", "Transport protocol, lower case.", "tcp"),
        Column("DvcHostname", "string", "Short host name of the asset, lower case.", "web-07", asim="DvcHostname"),
        Column(
            "DvcFQDN",
            "string",
            "Fully qualified name of the asset, lower case.",
            "web-07.corp.example.com",
            asim="DvcFQDN",
        ),
        Column("DvcIpAddr", "string", "IP address that the finding is on.", "10.20.30.40", asim="DvcIpAddr"),
        Column("DvcOs", "string", "Operating system of the asset.", "Linux Kernel 6.1 on Debian 12", asim="DvcOs"),
        Column("OwnerName", "string", "Owner of the asset or of the finding.", "alice.meyer", asim="Username"),
        Column("Organizations", "dynamic", "Business units or organisations concerned.", ("Retail",)),
        Column("Locations", "dynamic", "Where it was found, as the product says.", ("DE",)),
        Column("Tags", "dynamic", "Tags.", ("env=prod", "team=web-platform")),
        Column(
            "References",
            "dynamic",
            "Links to advisories and write-ups.",
            ("https://nvd.nist.gov/vuln/detail/CVE-2023-48795",),
        ),
        Column("FirstSeen", "datetime", "When the product first found it.", "2026-03-02T05:00:00.000000Z"),
        Column("LastSeen", "datetime", "When the product last found it.", "2026-11-19T22:41:07.000000Z", hashed=False),
        Column("ResolvedAt", "datetime", "When it was resolved, if it was.", "2026-11-18T09:30:00.000000Z"),
        SOURCE_UPDATED_AT,
        FIELDS_TRUNCATED,
    ),
)

_REPORTED: Final = (
    "TimeGenerated", "EntityVendor", "EntityProduct", "EntityOriginalId", "AssetId", "AssetName", "FindingTitle", "OriginalFindingType", "DetectionId",
    "Description", "Solution", "CveId", "CvssScore", "CvssVector", "OriginalStatus", "Port", "Protocol", "DvcHostname", "DvcFQDN", "DvcIpAddr",
    "FirstSeen", "LastSeen",
)  # fmt: skip

FINDING_REPORTS: Final = Stream(
    name="Custom-CAASM_FindingReports",
    table=FINDINGS.name,
    description="Findings from other senders (a scanner's script, a Logic App, a pipeline): few columns, severity in the sender's own words or as a number, brought to the common scale by the rule.",
    columns=(
        *(replace(FINDINGS.column(name), hashed=True) for name in _REPORTED),
        Column(
            "ReportedSeverity",
            "string",
            "Severity in the sender's words: critical, high, moderate, sev2, P1, warning and the like.",
            "moderate",
        ),
        Column(
            "ReportedScore", "real", "Severity as a number from 0 to 10, which counts when there are no words.", 5.9
        ),
        Column("RawPayload", "dynamic", "Whatever else the sender has; the rule drops it.", ("x=1",)),
    ),
)
