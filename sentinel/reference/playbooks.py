"""The playbooks, sentinel/content/playbooks/*.json: Logic Apps workflow definitions, declared here, written by `make generate`.

Invariant: whatever an incident starts looks first whether the incident was redirected (merged into another one by the Defender portal); then it says so on the target and
stops. What is known of an incident's assets is worked out in one query, INCIDENT_ASSETS, which answers with exactly one row; the workflows only carry it on.

1. CAASM-EnrichIncident: owner, criticality, coverage and open findings of the incident's assets, as a comment and tags.
2. CAASM-OpenTicket: the same as a JSON object to a webhook, once an incident.
3. CAASM-LoadDelta: a delta load of each source that knows the incident's assets, through POST /api/loads.
4. CAASM-RefreshWatchlist: each day the items of the watchlist become those of CAASM_CriticalAssets, also those that are to go.
"""

from __future__ import annotations

import json
from typing import Final

from sentinel.reference.workflow import (
    ANSWERED,
    ENDED,
    INCIDENT,
    INCIDENT_TRIGGER,
    LABELS,
    Action,
    Actions,
    after,
    assign,
    cell,
    comment,
    condition,
    definition,
    each,
    encoded,
    filtered,
    kql,
    manage,
    post_once,
    rows,
    secret,
    selected,
    stop,
    tag,
    variable,
)

FOLDER: Final = "sentinel/content/playbooks"

WATCHLIST_API: Final = "2025-09-01"
TICKET_TAG: Final = "CAASM ticket"

ENTITIES: Final = "{Entities}"
INCIDENT_ID: Final = "{ProviderIncidentId}"
"""Placeholders in the queries: base64 of the incident's entities as JSON, and of the id that the Defender portal knows it by."""

INCIDENT_ASSETS: Final = f"""
let entities = parse_json(base64_decode_tostring('{ENTITIES}'));
let names = print _Entity = entities
| mv-expand _Entity
| extend _Kind = tolower(tostring(_Entity['kind'])), _Host = tolower(tostring(_Entity['properties']['hostName'])),
    _Domain = tolower(tostring(_Entity['properties']['dnsDomain'])), _Address = tolower(tostring(_Entity['properties']['address']))
| extend _Fqdn = case(_Kind != 'host', '', _Host contains '.', _Host, isnotempty(_Host) and isnotempty(_Domain), strcat(_Host, '.', _Domain), '')
| extend _Names = case(_Kind == 'ip', pack_array(_Address), _Kind == 'host', pack_array(_Fqdn, tostring(split(_Host, '.')[0])), pack_array(''))
| mv-expand Name = _Names to typeof(string)
| where isnotempty(Name)
| distinct Name, WithDomain = isnotempty(_Fqdn);
let found = CAASM_AssetNames
| join kind=inner (names) on Name
// A short name counts only where one of the two has nothing longer.
| where not(NameType == 'Hostname' and WithDomain and HasFqdn)
| distinct AssetId;
let worst = CAASM_Findings
| where FindingStatus == 'Open' and Severity in ('Critical', 'High')
| join kind=inner (found) on AssetId
| summarize Worst = make_set(FindingTitle, 3) by AssetId;
let streams = toscalar(CAASM_Runs | summarize countif(not(IsComplete)));
CAASM_Exposure(14d, true)
| join kind=inner (found) on AssetId
| join kind=leftouter (worst) on AssetId
| extend _Level = case(Criticality == 'Critical', 0, Criticality == 'High', 1, Criticality == 'Medium', 2, 3)
| order by _Level asc, OpenCritical desc, OpenHigh desc, AssetName asc
| take 20
| extend _Cells = pack_array(
    // A comment holds 30,000 characters.
    substring(AssetName, 0, 200), Criticality, Environment, iff(isempty(Username), 'nobody', substring(Username, 0, 200)), case(isnull(IsInternetFacing), 'unknown', IsInternetFacing, 'yes', 'no'),
    case(isnull(HasEdr), 'unknown', HasEdr, 'yes', 'no'), ExposureLevel,
    strcat(tostring(OpenCritical), ' critical, ', tostring(OpenHigh), ' high of ', tostring(OpenTotal)),
    substring(strcat_array(coalesce(Worst, dynamic([])), '; '), 0, 300), EntityProduct)
| extend _Text = strcat_array(_Cells, '~|~')
| extend _Html = replace_string(replace_string(replace_string(_Text, '&', '&amp;'), '<', '&lt;'), '>', '&gt;')
| extend _Row = strcat('<tr><td>', replace_string(_Html, '~|~', '</td><td>'), '</td></tr>'), _Line = replace_string(_Text, '~|~', ' | ')
| summarize
    _Assets = count(), _Rows = make_list(_Row), _Lines = make_list(_Line), _Sources = make_set(tostring(split(AssetId, ':')[0])),
    _Critical = countif(Criticality == 'Critical'), _NoEdr = countif(HasEdr == false), _Internet = countif(IsInternetFacing == true),
    _Exposed = countif(ExposureLevel in ('Critical', 'High'))
| extend _Caution = iff(streams > 0, strcat(' ', tostring(streams), ' streams of the inventory are not complete: what is missing here may exist.'), '')
| project
    Comment = strcat(
        '<p>CAASM knows ', tostring(_Assets), ' assets by the names in this incident.', _Caution, '</p>',
        iff(_Assets == 0, '', strcat(
            '<table><tr><th>Asset</th><th>Criticality</th><th>Environment</th><th>Owner</th><th>On the internet</th><th>EDR</th><th>Exposure</th>',
            '<th>Open findings</th><th>Worst</th><th>Product</th></tr>', strcat_array(_Rows, ''), '</table>'))),
    Tags = strcat(
        iff(_Assets == 0, 'CAASM unknown asset|', ''), iff(_Critical > 0, 'CAASM critical asset|', ''), iff(_NoEdr > 0, 'CAASM no EDR|', ''),
        iff(_Internet > 0, 'CAASM internet facing|', ''), iff(_Exposed > 0, 'CAASM exposed|', '')),
    Sources = strcat_array(array_sort_asc(_Sources), '|'), Assets = _Assets, Lines = strcat_array(_Lines, '\\n')
""".strip()
"""Comment (HTML), Tags and Sources (with | between and, of tags, after them), Assets (a count, 20 at most), Lines (plain text)."""

REDIRECT_TARGET: Final = f"""
SecurityIncident
| where TimeGenerated >= ago(30d)
| summarize arg_max(TimeGenerated, *) by IncidentName
| where ProviderIncidentId == base64_decode_tostring('{INCIDENT_ID}')
| where not(tostring(Labels) has 'Redirected')
| top 1 by CreatedTime asc
| project IncidentName
""".strip()

WATCHLIST_ITEMS: Final = """
CAASM_CriticalAssets
| project ItemId, Key = strcat(ItemId, '/', Revision), Item = tostring(bag_pack(
    'AssetId', AssetId, 'AssetName', AssetName, 'AssetType', AssetType, 'DvcHostname', DvcHostname, 'DvcFQDN', DvcFQDN, 'DvcIpAddr', DvcIpAddr,
    'IpAddresses', IpAddresses, 'Owner', Owner, 'Organizations', Organizations, 'Environment', Environment, 'IsInternetFacing', IsInternetFacing,
    'HasEdr', HasEdr, 'ExposureLevel', ExposureLevel, 'EntityProduct', EntityProduct, 'Revision', Revision))
""".strip()

INCOMPLETE_STREAMS: Final = "CAASM_Runs | summarize Incomplete = countif(not(IsComplete)), Known = count()"

QUERIES: Final = {
    "INCIDENT_ASSETS": INCIDENT_ASSETS,
    "REDIRECT_TARGET": REDIRECT_TARGET,
    "WATCHLIST_ITEMS": WATCHLIST_ITEMS,
    "INCOMPLETE_STREAMS": INCOMPLETE_STREAMS,
}
"""Every query of the playbooks, with its placeholders."""

_ENTITIES: Final = encoded(f"string(coalesce({INCIDENT}?['properties']?['relatedEntities'], json('[]')))")
_INCIDENT_ID: Final = encoded(f"string(coalesce({INCIDENT}?['properties']?['providerIncidentId'], ''))")

_ASKING: Final = {"$connections": "Object", "workspaceId": "String", "logAnalytics": "String"}
_WITH_VAULT: Final = {**_ASKING, "vaultUri": "String", "vaultAudience": "String"}


def _head(name: str) -> Actions:
    """What every incident playbook does first: out, when the incident was redirected; then ask for its assets."""
    redirected = {
        "or": [
            {"greater": ["@length(body('Redirect_tags'))", 0]},
            {
                "and": [
                    {"equals": [f"@coalesce({INCIDENT}?['properties']?['additionalData']?['alertsCount'], 1)", 0]},
                    {"equals": [f"@{INCIDENT}?['properties']?['status']", "Closed"]},
                ]
            },
        ]
    }
    target = cell("Find_target", 0)
    own_id = f"{INCIDENT}?['id']"
    target_id = f"@{{substring({own_id}, 0, lastIndexOf({own_id}, '/'))}}/@{{{target}}}"
    number = f"@{{{INCIDENT}?['properties']?['incidentNumber']}}"
    words = f"<p>Incident {number} was redirected here; {name} did not run on it. Run it on this incident if it has not run.</p>"
    return {
        "Redirect_tags": filtered(LABELS, "equals(toLower(string(item()?['labelName'])), 'redirected')", after()),
        "If_redirected": condition(
            redirected,
            {
                "Find_target": kql(REDIRECT_TARGET.replace(INCIDENT_ID, _INCIDENT_ID), after()),
                "If_target_found": condition(
                    {"not": {"equals": [f"@empty({target})", True]}},
                    {"Comment_on_target": comment(words, after(), target_id)},
                    after("Find_target"),
                ),
                "Stop_redirected": stop("Cancelled", after("If_target_found", status=ENDED)),
            },
            after("Redirect_tags"),
        ),
    }


def _ask_assets(run_after: dict[str, list[str]]) -> Action:
    return kql(INCIDENT_ASSETS.replace(ENTITIES, _ENTITIES), run_after)


def enrich_incident() -> Action:
    """Comment and tags."""
    tags = cell("Ask_for_assets", 1)
    return definition(
        INCIDENT_TRIGGER,
        {
            **_head("CAASM-EnrichIncident"),
            "Ask_for_assets": _ask_assets(after("If_redirected")),
            "Comment": comment(f"@{{{cell('Ask_for_assets', 0)}}}", after("Ask_for_assets")),
            "Tag_names": filtered(f"split(string({tags}), '|')", "not(empty(item()))", after("Ask_for_assets")),
            "Tags": selected("body('Tag_names')", {"Tag": "@item()"}, after("Tag_names")),
            "If_tags": condition(
                {"greater": ["@length(body('Tags'))", 0]},
                {"Add_tags": tag("@body('Tags')", after())},
                # One change of the incident after the other.
                after("Tags", "Comment"),
            ),
        },
        _ASKING,
    )


def open_ticket() -> Action:
    """One ticket an incident, through a webhook whose address is a secret."""
    properties = f"{INCIDENT}?['properties']"
    ticket = {
        "title": f"@{{{properties}?['title']}}",
        "description": f"@{{{cell('Ask_for_assets', 4)}}}",
        "severity": f"@{{{properties}?['severity']}}",
        "incidentNumber": f"@{properties}?['incidentNumber']",
        "incidentUrl": f"@{{{properties}?['incidentUrl']}}",
        "assets": f"@{cell('Ask_for_assets', 3)}",
        "source": "Microsoft Sentinel, CAASM-OpenTicket",
    }
    return definition(
        INCIDENT_TRIGGER,
        {
            **_head("CAASM-OpenTicket"),
            "Ticket_tags": filtered(
                LABELS, f"equals(string(item()?['labelName']), '{TICKET_TAG}')", after("If_redirected")
            ),
            "If_open_already": condition(
                {"greater": ["@length(body('Ticket_tags'))", 0]},
                {"Stop_open_already": stop("Cancelled", after())},
                after("Ticket_tags"),
            ),
            "Ask_for_assets": _ask_assets(after("If_open_already")),
            "Read_webhook": secret("caasm-ticket-webhook", after("Ask_for_assets")),
            "Open_ticket": post_once("@{body('Read_webhook')?['value']}", {}, ticket, after("Read_webhook")),
            "Tag": tag([{"Tag": TICKET_TAG}], after("Open_ticket")),
            "Comment": comment(
                "<p>CAASM-OpenTicket: the ticket system took the incident and its @{"
                + cell("Ask_for_assets", 3)
                + "} assets.</p>",
                after("Tag"),
            ),
        },
        _WITH_VAULT,
    )


def load_delta() -> Action:
    """A delta load of each source that knows the incident's assets; a source that is being loaded already says so with 409."""
    answer = "outputs('Start_load')?['statusCode']"
    said = "<li>@{items('For_each_source')}: @{if(equals(" + answer + ", 202), concat('started, ', string(body('Start_load')?['run_id'])), if(equals(" + answer + ", 409), 'is being loaded already', concat('refused with status ', string(" + answer + "))))}</li>"  # fmt: skip
    return definition(
        INCIDENT_TRIGGER,
        {
            **_head("CAASM-LoadDelta"),
            "Said": variable("Said", "string", "", after("If_redirected")),
            "Ask_for_assets": _ask_assets(after("Said")),
            "Read_key": secret("caasm-function-key", after("Ask_for_assets")),
            "Sources": filtered(
                f"split(string({cell('Ask_for_assets', 2)}), '|')", "not(empty(item()))", after("Read_key")
            ),
            "For_each_source": each(
                "body('Sources')",
                {
                    "Start_load": post_once(
                        "@{parameters('functionApp')}/api/loads",
                        {"x-functions-key": "@{body('Read_key')?['value']}"},
                        {"source": "@{items('For_each_source')}", "mode": "delta"},
                        after(),
                    ),
                    "Say": {
                        "type": "AppendToStringVariable",
                        "runAfter": after("Start_load", status=ANSWERED),
                        "inputs": {"name": "Said", "value": said},
                    },
                },
                after("Sources"),
            ),
            "Comment": comment(
                "<p>CAASM-LoadDelta: @{length(body('Sources'))} sources know the assets of this incident.</p><ul>@{variables('Said')}</ul>",
                after("For_each_source"),
            ),
        },
        {**_WITH_VAULT, "functionApp": "String"},
    )


def refresh_watchlist() -> Action:
    """Write what is new or changed, and remove what is gone, the latter only when the whole inventory is complete."""
    items = f"@{{parameters('watchlist')}}/watchlistItems/@{{%s}}?api-version={WATCHLIST_API}"
    return definition(
        {"Daily": {"type": "Recurrence", "recurrence": {"frequency": "Day", "interval": 1, "schedule": {"hours": ["5"], "minutes": [30]}}}},
        {
            "Ask_for_streams": kql(INCOMPLETE_STREAMS, after()),
            "Ask_for_items": kql(WATCHLIST_ITEMS, after("Ask_for_streams")),
            "Next": variable("Next", "string", f"@{{parameters('watchlist')}}/watchlistItems?api-version={WATCHLIST_API}", after("Ask_for_items")),
            "Present": variable("Present", "array", [], after("Next")),
            "Until_all_are_read": {
                "type": "Until",
                "runAfter": after("Present"),
                "expression": "@empty(variables('Next'))",
                "limit": {"count": 1000, "timeout": "PT1H"},
                "actions": {
                    "Read_items": manage("GET", "@{variables('Next')}", after()),
                    "Together": {
                        "type": "Compose",
                        "runAfter": after("Read_items"),
                        "inputs": "@union(variables('Present'), coalesce(body('Read_items')?['value'], json('[]')))",
                    },
                    "Keep": assign("Present", "@outputs('Together')", after("Together")),
                    "Go_on": assign("Next", "@{coalesce(body('Read_items')?['nextLink'], '')}", after("Keep")),
                },
            },
            "Names": selected("variables('Present')", "@toLower(string(item()?['name']))", after("Until_all_are_read")),
            "Keys": selected(
                "variables('Present')",
                "@concat(toLower(string(item()?['name'])), '/', string(item()?['properties']?['itemsKeyValue']?['Revision']))",
                after("Until_all_are_read"),
            ),
            "Wanted": selected(rows("Ask_for_items"), "@item()[0]", after("Until_all_are_read")),
            "To_write": filtered(rows("Ask_for_items"), "not(contains(body('Keys'), item()[1]))", after("Keys")),
            "For_each_to_write": each(
                "body('To_write')",
                {"Write_item": manage("PUT", items % "items('For_each_to_write')[0]", after(), {"properties": {"itemsKeyValue": "@json(items('For_each_to_write')[2])"}})},
                after("To_write", "Wanted", "Names"),
                at_once=5,
            ),
            # An inventory with a gap would look like one from which assets have gone.
            "If_whole": condition(
                {
                    "and": [
                        {"equals": [f"@{cell('Ask_for_streams', 0)}", 0]},
                        {"greater": [f"@{cell('Ask_for_streams', 1)}", 0]},
                        {"greater": ["@length(body('Wanted'))", 0]},
                        {"equals": ["@empty(variables('Next'))", True]},
                    ]
                },
                {
                    "Gone": filtered("body('Names')", "not(contains(body('Wanted'), item()))", after()),
                    "For_each_gone": each(
                        "body('Gone')",
                        {"Remove_item": manage("DELETE", items % "items('For_each_gone')", after())},
                        after("Gone"),
                        at_once=5,
                    ),
                },
                after("For_each_to_write"),
            ),
        },
        {"workspaceId": "String", "logAnalytics": "String", "resourceManager": "String", "watchlist": "String"},
    )  # fmt: skip


PLAYBOOKS: Final = {
    "CAASM-EnrichIncident": enrich_incident,
    "CAASM-OpenTicket": open_ticket,
    "CAASM-LoadDelta": load_delta,
    "CAASM-RefreshWatchlist": refresh_watchlist,
}


def playbooks() -> dict[str, str]:
    """Path to text of every workflow definition."""
    return {
        f"{FOLDER}/{name}.json": json.dumps(made(), indent=1, ensure_ascii=False) + "\n"
        for name, made in PLAYBOOKS.items()
    }
