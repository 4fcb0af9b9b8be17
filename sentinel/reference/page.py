"""The column reference, docs/columns.md: what each table holds, and how its rows are read and joined.

Invariant: every recipe is KQL that the tests check against the contract and run on the sample rows, where each finds something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from sentinel.content import functions, transforms
from sentinel.tables import BY_NAME, STREAMS, TABLES, Column, Table

_HEAD: Final = """# Columns

Generated from `sentinel/tables` by `make generate`; do not edit. Sample rows, which belong together: [samples/](samples/).

ASIM has no schema for a device inventory or for findings (its asset entity is for files and sites). Names are borrowed where ASIM has a word; the column *ASIM* says
whose meaning a column has. The tables do not claim to conform to a schema.

- **A row is a statement of a run**, not the present state: an asset that is in ten runs has ten rows. Ask `CAASM_Assets()`, `CAASM_Findings()` and
  `CAASM_Relationships()`: one row per key, the newest, without what is gone. Ask a table only for what was said when.
- **Times.** `TimeGenerated` is when the run started, the same in each of its rows (Sentinel replaces older times on arrival). `FirstSeen`, `LastSeen` and
  `SourceUpdatedAt` are the product's own. Everything is UTC.
- **Absent** is not `false`: a boolean without a value means that the product cannot tell. `HasEdr == false` finds assets that are known to have none, `isnull(HasEdr)` those
  of which nothing is known. A text without a value is empty (`isempty`).
- **`dynamic`** columns hold an array of strings: `IpAddresses has '10.20.30.40'`, `set_has_element(Tags, 'env=prod')`, or `mv-expand`.
- **Case.** Host names, FQDNs, domains, protocols and UUIDs are lower case, MAC addresses upper case; user names and titles are as given (compare with `=~`).
- ***hash***: a column that counts when a run asks whether a row says anything new. A row whose other columns alone have changed is not sent by a delta load.
"""

_KEYS: Final = """## Keys and joins

| from | to | how |
| --- | --- | --- |
| `CAASM_Findings_CL.AssetId` | `CAASM_Assets_CL.AssetId` | many to one. The asset may be missing (an orphan): use `leftouter` where that matters |
| `CAASM_Relationships_CL.FromId` | `CAASM_Assets_CL.AssetId` | many to one, where `FromType == 'Asset'` |
| `CAASM_Relationships_CL.ToId` | `CAASM_Assets_CL.AssetId` | many to one, where `ToType == 'Asset'`; where the product only names the other end (a virtual host in Device42), `ToName` to `AssetName` |
| `CAASM_Relationships_CL.ToId` | `CAASM_Findings_CL.AssetId` | an asset that is not exported, but has findings (CyCognito's addresses) |
| `CAASM_Relationships_CL.ToName` | `CAASM_Assets_CL.CloudAccountId` | where `ToType == 'Cloud Account'`; a VPC (`OriginalRelationshipType == 'aws_vpc_id'`) to `CloudNetworkId` |
| `*.EntitySnapshotId` | `CAASM_Runs_CL.RunId` | many to one per `SourceStream`: a run has one row per stream |
| `DvcHostname`, `DvcFQDN`, `DvcIpAddr` | the same names in ASIM views and alerts' entities | best single value; for every address `mv-expand IpAddresses` first. An address may be reused: restrict to recent `LastSeen` |
| `Username` (of the functions) | `ActorUsername`, `TargetUsername`, `AccountUPN` | `OwnerName@OwnerUpnSuffix` where the product gives a UPN, else `OwnerName` |
| `CloudResourceId` | `_ResourceId`, AWS ARNs and instance ids | as the provider writes it; compare with `=~` |

A key is `<source>:<the product's identifier>`, so two products that know one machine give two rows; they meet in `DvcFQDN`, `DvcIpAddr`, `SerialNumber` or `HardwareUuid`.
"""


class RelationKind(NamedTuple):
    """A kind of relation that a stream gives. `said`: its OriginalRelationshipType. `end`: what is behind the source in ToId; empty where there is only ToName."""

    source: str
    stream: str
    said: str
    type: str
    to_type: str
    end: str
    words: str


RELATION_KINDS: Final = (
    RelationKind("cycognito", "domain_relations", "owned_by", "Owned By", "Owner", "", "the domain's owner"),
    RelationKind("cycognito", "domain_relations", "organizations", "Used By", "Owner", "", "each organisation"),
    RelationKind("cycognito", "domain_relations", "ip_names", "Resolves To", "Asset", "ip/<address>", "each address; no asset of the export, but findings have it as their AssetId"),
    RelationKind("cycognito", "domain_relations", "sub_domains", "Contains", "Asset", "domain/<name>", "each sub-domain, exported or not"),
    RelationKind("cycognito", "web_app_relations", "owned_by", "Owned By", "Owner", "", "the application's owner"),
    RelationKind("cycognito", "web_app_relations", "organizations", "Used By", "Owner", "", "each organisation"),
    RelationKind("cycognito", "web_app_relations", "id", "Runs On", "Asset", "ip/<address> or domain/<name>", "the host in its identifier, exported or not"),
    RelationKind("cycognito", "ip_range_relations", "owned_by", "Owned By", "Owner", "", "the range's owner"),
    RelationKind("cycognito", "ip_range_relations", "organizations", "Used By", "Owner", "", "each organisation"),
    RelationKind("device42", "relations", "the custom field's name", "Owned By", "Owner", "", "the owner"),
    RelationKind("device42", "relations", "customer", "Used By", "Owner", "customer/<number>", "the customer"),
    RelationKind("device42", "relations", "virtual_host_name", "Runs On", "Asset", "", "the host of a virtual machine, by its name"),
    RelationKind("device42", "relations", "blade_host", "Member Of", "Asset", "<number>", "the chassis of a blade"),
    RelationKind("device42", "relations", "subnet", "In Network", "Network", "subnet/<number>", "each subnet, as CIDR; Attributes has the addresses in it as ip=…"),
    RelationKind("tenable", "relations", "network", "In Network", "Network", "network/<uuid>", "Tenable's network, unless it is the default one"),
    RelationKind("tenable", "relations", "aws_vpc_id", "In Network", "Network", "", "the VPC"),
    RelationKind("tenable", "relations", "azure_resource_id", "Member Of", "Cloud Account", "", "the Azure subscription"),
    RelationKind("tenable", "relations", "aws_owner_id", "Member Of", "Cloud Account", "", "the AWS account"),
    RelationKind("tenable", "relations", "gcp_project_id", "Member Of", "Cloud Account", "", "the Google Cloud project"),
)  # fmt: skip
"""Every relation that the products give: what the column reference lists, and a test finds in their records."""


class Recipe(NamedTuple):
    """A query that a reader can start from."""

    words: str
    kql: str


RECIPES: Final = (
    Recipe(
        "Open severe findings on critical assets that face the internet, with the owner to call.",
        """
CAASM_Findings
| where FindingStatus == 'Open' and Severity in ('Critical', 'High')
| join kind=inner (
    CAASM_Assets
    | where Criticality == 'Critical' and IsInternetFacing == true
    | project AssetId, AssetName, DvcHostname, DvcIpAddr, Environment, OwnerName
  ) on AssetId
| project AssetName, FindingTitle, Severity, CveId, Environment, OwnerName, FirstSeen""",
    ),
    Recipe(
        "What is known about an address that an alert names, whichever of the asset's addresses it is.",
        """
CAASM_Assets
| mv-expand Address = IpAddresses to typeof(string)
| where Address == '198.51.100.7'
| project AssetName, DvcHostname, DvcFQDN, Criticality, IsInternetFacing, HasEdr, OwnerName, EntityProduct, LastSeen""",
    ),
    Recipe(
        "Assets and findings of the last complete run of each stream only.",
        """
CAASM_Runs_CL
| where RunStatus == 'complete' and RunMode == 'full'
| summarize arg_max(StartedAt, RunId) by SourceName, SourceStream
| join kind=inner (CAASM_Assets_CL | project EntitySnapshotId, SourceStream, AssetId, AssetName) on $left.RunId == $right.EntitySnapshotId, SourceStream
| project SourceName, RunId, AssetId, AssetName""",
    ),
    Recipe(
        "Which assets run a piece of software, and who owns them.",
        """
CAASM_Relationships_CL
| where RelationshipType == 'Has Software' and ToName =~ 'openssh'
| summarize arg_max(TimeGenerated, *) by RelationshipId
| join kind=inner (CAASM_Assets | project AssetId, AssetName, OwnerName, Criticality) on $left.FromId == $right.AssetId
| project AssetName, ToName, ToVersion, Criticality, OwnerName""",
    ),
    Recipe(
        "What assets have to do with what: each relation that there is now, with what is known of both ends. The other end may be no asset of the inventory.",
        """
CAASM_Relationships
| join kind=inner (CAASM_Assets | project AssetId, AssetName, Criticality) on $left.FromId == $right.AssetId
| join kind=leftouter (
    CAASM_Assets | project EndId = AssetId, EndName = AssetName, EndCriticality = Criticality, EndHasEdr = HasEdr
  ) on $left.ToId == $right.EndId
| project AssetName, Criticality, RelationshipType, ToType, Name = coalesce(EndName, ToName), EndCriticality, EndHasEdr, ToId""",
    ),
)


def markdown() -> str:
    """The page: how to read the tables, keys and joins, the kinds of relations, the functions, then a section per table with a row per column."""
    return "\n".join(
        [
            _HEAD,
            _KEYS,
            *_recipes(),
            *_relations(),
            *_functions(),
            *(_section(table) for table in TABLES),
            *_other_senders(),
        ]
    )


def _recipes() -> list[str]:
    return [f"{recipe.words}\n\n```kusto\n{recipe.kql.strip()}\n```\n" for recipe in RECIPES]


def _relations() -> list[str]:
    lines = [
        "## Relations",
        "",
        "What the products give. A relation starts at the asset whose record says it: `FromId` is its `AssetId`, `FromType` is `Asset`. It ends at `ToId`, which is",
        "`<source>:<end>`, and at `ToName`; where *end* is empty, or the product gives no identifier with a name, `ToId` is absent. A source's setting can",
        "leave them out ([configuration.md](configuration.md#relations)).",
        "",
        "| `SourceStream` | `RelationshipType` | `ToType` | *end* | `OriginalRelationshipType` | what it is |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {kind.source}: `{kind.stream}` | `{kind.type}` | `{kind.to_type}` | {f'`{kind.end}`' if kind.end else ''} "
        f"| {kind.said if ' ' in kind.said else f'`{kind.said}`'} | {kind.words} |"
        for kind in RELATION_KINDS
    ]
    return ["\n".join([*lines, ""])]


def _functions() -> list[str]:
    lines = ["## Functions", "", "| function | gives |", "| --- | --- |"]
    lines += [f"| `{f.name}({f.parameters})` | {f.description} |" for f in functions()]
    return ["\n".join([*lines, ""])]


def _section(table: Table) -> str:
    lines = [
        f"## {table.name}",
        "",
        f"{table.description} Key: `{table.key}`. DCR stream: `{table.stream}`. Kept for {table.retention_days} days unless deployed otherwise.",
        "",
    ]
    return "\n".join([*lines, *_rows(table.columns), ""])


def _other_senders() -> list[str]:
    bodies: Mapping[str, str] = {stream: transform.description for stream, transform in transforms().items()}
    lines = [
        "## Streams for other senders",
        "",
        "The data collection rule takes these too, over the same API, from whoever has Monitoring Metrics Publisher on it.",
    ]
    for stream in STREAMS:
        keyed = BY_NAME[stream.table].key
        lines += [
            "",
            f"### {stream.name}",
            "",
            f"{stream.description} Rows go to `{stream.table}`, where the rule makes `{keyed}`. {bodies[stream.name]}",
            "",
            *_rows(stream.columns, hashed=False),
        ]
    return ["\n".join([*lines, ""])]


def _rows(columns: tuple[Column, ...], *, hashed: bool = True) -> list[str]:
    head = ["column", "type", "ASIM", *(["hash"] if hashed else []), "what it holds", "example"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for column in columns:
        asim = f"`{column.asim}`" if column.asim else ""
        mark = ["yes" if column.hashed else ""] if hashed else []
        cells = [
            f"`{column.name}`",
            column.type,
            asim,
            *mark,
            _cell(column.description).replace("<", "&lt;"),
            f"`{_example(column)}`",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _example(column: Column) -> str:
    match column.example:
        case tuple() as texts:
            return _cell("[" + ", ".join(f'"{text}"' for text in texts) + "]")
        case bool() as truth:
            return str(truth).lower()
        case value:
            return _cell(str(value))


def _cell(text: str) -> str:
    # A bar ends a cell of a table, also inside of code.
    return text.replace("|", "\\|")
