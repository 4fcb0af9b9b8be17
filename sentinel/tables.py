"""The table contract: every column of every table that the pipeline writes, declared once.

Everything else that knows a column (polars schemas, DCR stream declarations, the emulator's rules, KQL checks, the column
reference) is derived from `TABLES`, so that a column cannot exist in one place and be missing in another.

Types are those of a DCR stream declaration. `dynamic` columns always hold an array of strings here: one shape that every row has, that
`has_any`, `mv-expand` and `set_has_element` work on, and that never changes under a query.
ASIM names are borrowed where ASIM has a word (device and user entities, the asset entity's envelope, event severity); ASIM has no schema for a
device inventory or for findings, so these tables are ASIM-aligned in their names and do not claim to conform to a schema.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

ColumnType = Literal["string", "int", "long", "real", "boolean", "dynamic", "datetime"]

FIELD_LIMIT_BYTES: Final = 65_536
"""A field value over 64 KB is cut silently by the service (Azure Monitor limits, custom logs); we cut first, and say so."""

RESERVED_NAMES: Final = frozenset(
    {
        "id",
        "billedsize",
        "isbillable",
        "invalidtimegenerated",
        "tenantid",
        "title",
        "type",
        "uniqueid",
        "_itemid",
        "_resourcegroup",
        "_resourceid",
        "_subscriptionid",
        "_timereceived",
    }
)
"""Names that a custom table cannot use, lower case (Azure Monitor, create a custom table)."""

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


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its DCR type, what it holds, the ASIM field that it follows (if any), whether it takes part in the row hash."""

    name: str
    type: ColumnType
    description: str
    asim: str = ""
    hashed: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """A custom table, the DCR stream that feeds it, and the column that identifies a row's subject within the table."""

    name: str
    stream: str
    key: str
    description: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The column names, in the order in which rows are written."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column of that name; raises KeyError when the table has none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"{self.name} has no column {name!r}")


_ENVELOPE: Final = (
    Column(
        "TimeGenerated",
        "datetime",
        "When the run started; the same for every row of a run. The source's own times have columns of their own.",
        hashed=False,
    ),
    Column(
        "EntityFeedType",
        "string",
        "Snapshot: a row of a full load. Changefeed: a row of a delta load.",
        "EntityFeedType",
        hashed=False,
    ),
    Column(
        "EntitySnapshotId",
        "string",
        "The run that sent the row; joins to RunId of CAASM_Runs_CL.",
        "EntitySnapshotId",
        hashed=False,
    ),
    Column(
        "EntityIsDeleted",
        "boolean",
        "True when the source no longer has the subject, or says that it was deleted.",
        "EntityIsDeleted",
    ),
    Column("EntityVendor", "string", "Vendor of the product that the row comes from.", "EntityVendor"),
    Column("EntityProduct", "string", "Product that the row comes from.", "EntityProduct"),
    Column("EntityOriginalId", "string", "The subject's identifier as the product gives it.", "EntityOriginalId"),
    Column("SourceStream", "string", "The stream of the source that gave the record, e.g. domains or vulnerabilities."),
)

_TRUNCATED: Final = Column(
    "FieldsTruncated", "dynamic", "Names of the columns whose value was cut to 64 KB in this row; absent when none was."
)

ASSETS: Final = Table(
    name="CAASM_Assets_CL",
    stream="Custom-CAASM_Assets",
    key="AssetId",
    description="One row per asset and run: what it is, where it is, who owns it, what protects it, how exposed it is.",
    columns=(
        *_ENVELOPE,
        Column("AssetId", "string", "Key of the asset: <source>:<the product's identifier>. Stable between runs."),
        Column("AssetName", "string", "The name that a person would call it by."),
        Column(
            "AssetType",
            "string",
            "Computer, Virtual Machine, Mobile Device, Network Device, IOT Device, Domain, Web Application, IP Range, Cluster or Other.",
            "DeviceType (wider)",
        ),
        Column("AssetOriginalType", "string", "The type in the product's own words.", "AssetOriginalType"),
        Column("AssetStatus", "string", "The product's life-cycle or review state, in its own words."),
        Column("DvcHostname", "string", "Short host name, without a domain, lower case.", "DvcHostname"),
        Column("DvcDomain", "string", "Domain of the host, lower case.", "DvcDomain"),
        Column("DvcFQDN", "string", "Fully qualified name, lower case.", "DvcFQDN"),
        Column("DvcIpAddr", "string", "The best single IP address; all of them are in IpAddresses.", "DvcIpAddr"),
        Column(
            "DvcMacAddr",
            "string",
            "The best single MAC address, upper case with colons; all of them are in MacAddresses.",
            "DvcMacAddr",
        ),
        Column("DvcOs", "string", "Operating system.", "DvcOs"),
        Column("DvcOsVersion", "string", "Version of the operating system.", "DvcOsVersion"),
        Column("DvcZone", "string", "Network or zone that the asset is in.", "DvcZone"),
        Column("Hostnames", "dynamic", "Every host name and alias known, as given."),
        Column("Fqdns", "dynamic", "Every fully qualified name known, lower case."),
        Column("IpAddresses", "dynamic", "Every IP address known."),
        Column("MacAddresses", "dynamic", "Every MAC address known, upper case with colons."),
        Column("Subnets", "dynamic", "Networks that the addresses belong to."),
        Column("IpRange", "string", "First and last address of an IP range, with a dash between them."),
        Column("SerialNumber", "string", "Serial number of the hardware."),
        Column("HardwareUuid", "string", "BIOS or hardware UUID, lower case."),
        Column("AgentId", "string", "Identifier of the product's agent on the asset."),
        Column("Manufacturer", "string", "Maker of the hardware."),
        Column("Model", "string", "Model of the hardware."),
        Column("CloudProvider", "string", "AWS, Azure, GCP or another provider's name."),
        Column("CloudAccountId", "string", "Account, subscription or project that owns the resource."),
        Column("CloudRegion", "string", "Region or zone of the resource."),
        Column("CloudResourceId", "string", "Resource or instance identifier at the provider.", "DvcId"),
        Column("CloudNetworkId", "string", "Virtual network of the resource at the provider."),
        Column(
            "OwnerName", "string", "The owner: a user name without its domain, a team, or an organisation.", "Username"
        ),
        Column("OwnerUpnSuffix", "string", "What follows the @ when the owner is a user principal name."),
        Column("Owners", "dynamic", "Every owner known, as given."),
        Column("Organizations", "dynamic", "Business units or organisations that the asset belongs to."),
        Column("Criticality", "string", "Critical, High, Medium, Low or Unknown: how much the business depends on it."),
        Column("OriginalCriticality", "string", "The text or rating that Criticality was read from."),
        Column("Environment", "string", "Production, Staging, Development, Test, Disaster Recovery, Other or Unknown."),
        Column("OriginalEnvironment", "string", "The text that Environment was read from."),
        Column("Tags", "dynamic", "Tags; key=value where the product has keys."),
        Column("CustomFields", "dynamic", "Custom fields that have a value, as key=value."),
        Column(
            "HasEdr", "boolean", "An endpoint detection agent covers the asset; absent when the product cannot tell."
        ),
        Column(
            "HasVulnerabilityScanner",
            "boolean",
            "A vulnerability scanner has seen the asset; absent when the product cannot tell.",
        ),
        Column("HasBackup", "boolean", "The asset is backed up; absent when the product cannot tell."),
        Column("HasMdm", "boolean", "Device management covers the asset; absent when the product cannot tell."),
        Column("SecurityTools", "dynamic", "Security tools known to cover the asset."),
        Column("IsInternetFacing", "boolean", "Reachable from the internet; absent when the product cannot tell."),
        Column("Locations", "dynamic", "Where the asset is, as the product says (country codes, sites)."),
        Column("AssetRiskLevel", "string", "Info, Low, Medium, High, Critical or Other.", "AssetRiskLevel"),
        Column("AssetOriginalRiskLevel", "string", "The product's own rating, as text.", "AssetOriginalRiskLevel"),
        Column("RiskScore", "real", "The product's own score, on its own scale."),
        Column("OpenFindings", "int", "Open findings that the product counts on the asset."),
        Column("SevereFindings", "int", "Of these, the severe ones."),
        Column("Software", "dynamic", "Installed software: CPE names or names with versions."),
        Column("FirstSeen", "datetime", "When the product first saw the asset."),
        Column("LastSeen", "datetime", "When the product last saw the asset.", hashed=False),
        Column("SourceUpdatedAt", "datetime", "When the product last changed its record.", hashed=False),
        _TRUNCATED,
    ),
)

FINDINGS: Final = Table(
    name="CAASM_Findings_CL",
    stream="Custom-CAASM_Findings",
    key="FindingId",
    description="One row per finding and run: vulnerabilities, misconfigurations, missing controls, exposures.",
    columns=(
        *_ENVELOPE,
        Column(
            "FindingId",
            "string",
            "Key of the finding: <source>:<the product's identifier, or what makes it unique>. Stable between runs.",
        ),
        Column(
            "AssetId",
            "string",
            "The asset that the finding is on; joins to AssetId of CAASM_Assets_CL, which need not have it.",
        ),
        Column("AssetName", "string", "The asset's name as the finding gives it."),
        Column("FindingTitle", "string", "Short text of what was found."),
        Column(
            "FindingType",
            "string",
            "Vulnerability, Misconfiguration, Exposure, Compromise, Missing Control, Information or Other.",
        ),
        Column("OriginalFindingType", "string", "The type or family in the product's own words."),
        Column("DetectionId", "string", "The product's identifier of the check that found it (plugin, rule, CVE)."),
        Column("Description", "string", "What it means."),
        Column("Solution", "string", "What to do about it."),
        Column("Evidence", "string", "What the check saw; may be long, then it is cut and named in FieldsTruncated."),
        Column(
            "Severity", "string", "Critical, High, Medium, Low, Informational, or Unknown when no profile can read it."
        ),
        Column(
            "EventSeverity",
            "string",
            "The same on ASIM's four levels (Critical is High, Unknown is Informational).",
            "EventSeverity",
        ),
        Column(
            "EventOriginalSeverity",
            "string",
            "The text or number that Severity was read from.",
            "EventOriginalSeverity",
        ),
        Column("SeverityBasis", "string", "What decided: label, number, cvss, or none."),
        Column("CveId", "string", "The first CVE; all of them are in CveIds."),
        Column("CveIds", "dynamic", "Every CVE of the finding."),
        Column("CvssScore", "real", "CVSS base score, 0 to 10; version 3 where there is one, else version 2."),
        Column("CvssVersion", "string", "Version of CVSS that the score is of, e.g. 3 or 2."),
        Column("CvssVector", "string", "CVSS base vector."),
        Column("EpssScore", "real", "Probability of exploitation, 0 to 1 (FIRST EPSS), where the product gives it."),
        Column("RiskScore", "real", "The product's own score of the finding, on its own scale."),
        Column("IsKnownExploited", "boolean", "Known to be exploited; absent when the product cannot tell."),
        Column("IsExploitAvailable", "boolean", "An exploit is available; absent when the product cannot tell."),
        Column("FindingStatus", "string", "Open, Fixed, Accepted or Unknown."),
        Column("OriginalStatus", "string", "The state in the product's own words."),
        Column("Port", "int", "Port that the finding is on; absent when it is on none."),
        Column("Protocol", "string", "Transport protocol, lower case."),
        Column("DvcHostname", "string", "Short host name of the asset, lower case.", "DvcHostname"),
        Column("DvcFQDN", "string", "Fully qualified name of the asset, lower case.", "DvcFQDN"),
        Column("DvcIpAddr", "string", "IP address that the finding is on.", "DvcIpAddr"),
        Column("DvcOs", "string", "Operating system of the asset.", "DvcOs"),
        Column("OwnerName", "string", "Owner of the asset or of the finding.", "Username"),
        Column("Organizations", "dynamic", "Business units or organisations concerned."),
        Column("Locations", "dynamic", "Where it was found, as the product says."),
        Column("Tags", "dynamic", "Tags."),
        Column("References", "dynamic", "Links to advisories and write-ups."),
        Column("FirstSeen", "datetime", "When the product first found it."),
        Column("LastSeen", "datetime", "When the product last found it.", hashed=False),
        Column("ResolvedAt", "datetime", "When it was resolved, if it was."),
        Column("SourceUpdatedAt", "datetime", "When the product last changed its record.", hashed=False),
        _TRUNCATED,
    ),
)

_COUNTS: Final = (
    ("Exported", "Records that the source gave."),
    ("Staged", "Records read back from staging."),
    ("Flattened", "Records that became rows."),
    ("Rejected", "Records that could not become rows; they are kept with their reasons."),
    ("Filtered", "Records that were left out on purpose."),
    ("Rows", "Rows that the records gave."),
    ("Accepted", "Rows that the ingestion API accepted."),
    ("Unchanged", "Rows that were not sent because the last complete run had them."),
    ("DeadLettered", "Rows that were refused; they are kept with their reasons."),
    ("Deleted", "Tombstones that were accepted: subjects that are gone."),
    ("Created", "Subjects that the last complete run did not have."),
    ("Updated", "Subjects that say something else than in the last complete run."),
    ("Duplicates", "Records that came more than once in this run."),
    ("PossiblyRepeated", "Rows that may be in the table twice, because an answer was lost."),
    ("Orphans", "Findings on assets that the run did not export."),
    ("FailedPages", "Pages that could not be read."),
    ("BytesSent", "Bytes of the requests before compression."),
    ("Requests", "Requests made to the ingestion API."),
)

RUNS: Final = Table(
    name="CAASM_Runs_CL",
    stream="Custom-CAASM_Runs",
    key="RunStreamId",
    description="The ledger: one row per stream of a run, also of runs that failed. Content can refuse to judge an incomplete inventory.",
    columns=(
        Column("TimeGenerated", "datetime", "When the run was closed.", hashed=False),
        Column("RunStreamId", "string", "Key of the row: the run and the stream."),
        Column("RunId", "string", "The run; joins to EntitySnapshotId of the other tables."),
        Column("EntityVendor", "string", "Vendor of the product.", "EntityVendor"),
        Column("EntityProduct", "string", "Product that was loaded.", "EntityProduct"),
        Column("SourceName", "string", "The source's name in this app, e.g. tenable."),
        Column(
            "SourceStream", "string", "The stream; empty in the row of a run that failed before it knew its streams."
        ),
        Column("RunMode", "string", "full or delta."),
        Column("RunStatus", "string", "complete, incomplete or failed."),
        Column("StartedAt", "datetime", "When the run was started: the TimeGenerated of its rows."),
        Column(
            "ChangedSince",
            "datetime",
            "Since when the source was asked for changes; absent when it was exported whole.",
        ),
        Column("Reasons", "dynamic", "Why the run is not complete."),
        Column("Notes", "dynamic", "What else is worth knowing about the run."),
        *(Column(name, "long", description) for name, description in _COUNTS),
    ),
)

TABLES: Final = (ASSETS, FINDINGS, RUNS)
"""Every table that is written, in the order in which a run counts them."""

BY_STREAM: Final = {table.stream: table for table in TABLES}
"""DCR stream name to table."""

BY_NAME: Final = {table.name: table for table in TABLES}
"""Table name to table."""


def problems(table: Table) -> list[str]:
    """Every rule of a custom table that the declaration breaks, in words; an empty list when it breaks none.

    Rules: Azure Monitor, create a custom table (names, reserved names) and workspace limits (500 columns, 45 characters).
    """
    found = []
    if not table.name.endswith("_CL"):
        found.append(f"{table.name}: a custom table's name ends in _CL")
    if not table.stream.startswith("Custom-"):
        found.append(f"{table.stream}: a stream declaration's name begins with Custom-")
    if len(table.columns) > 500:
        found.append(f"{table.name}: {len(table.columns)} columns, at most 500")
    lowered = [name.lower() for name in table.names]
    found += [
        f"{table.name}.{name}: twice (case does not count)" for name in table.names if lowered.count(name.lower()) > 1
    ]
    for column in table.columns:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{1,44}", column.name):
            found.append(
                f"{table.name}.{column.name}: a letter first, then letters, digits, underscores; 2 to 45 characters"
            )
        if column.name.lower() in RESERVED_NAMES:
            found.append(f"{table.name}.{column.name}: reserved")
        if not column.description.endswith("."):
            found.append(f"{table.name}.{column.name}: needs a description that is a sentence")
    if table.names[0] != "TimeGenerated":
        found.append(f"{table.name}: the first column is TimeGenerated")
    if table.key not in table.names:
        found.append(f"{table.name}: its key {table.key!r} is no column")
    return found
