targetScope = 'subscription'

@minLength(1)
@maxLength(32)
@description('Name of the environment (azd), in tags and in the resource group\'s name.')
param environmentName string

@minLength(1)
@description('Region of every resource but what must be beside the workspace.')
@metadata({ azd: { type: 'location' } })
param location string

@description('Resource group to make or to use.')
param resourceGroupName string = 'rg-${environmentName}'

@description('Products that are configured, separated by commas: cycognito, device42, tenable. Each needs its secrets in the vault.')
param sources string = 'tenable'

@description('URLs of products that have no default or another one: name=https://…, separated by commas.')
param sourceUrls string = ''

@description('Products that the timers load. Empty: none, e.g. because Data Factory starts the loads.')
param scheduledSources string = sources

@description('NCRONTAB of full loads; at least every 7 days, because rules look back 14 at most.')
param fullSchedule string = '0 0 2 * * 6'

@description('NCRONTAB of delta loads.')
param deltaSchedule string = '0 0 */4 * * *'

@description('Existing Log Analytics workspace, as resource ID, also in another group or subscription. Empty: make one.')
param workspaceResourceId string = ''

@description('Region of the existing workspace: DCE, DCR and alerts have to be there.')
param workspaceLocation string = location

@description('Turn Microsoft Sentinel on. By default only for a workspace that is made here.')
param onboardSentinel bool = empty(workspaceResourceId)

@description('Workspace for the app\'s own telemetry and the DCR\'s errors. Empty: make one without Sentinel, so that they are not billed as security data.')
param telemetryWorkspaceResourceId string = ''

@minValue(30)
@maxValue(730)
@description('Days that rows can be queried interactively.')
param retentionInDays int = 90

@allowed([ 'endpoint', 'direct' ])
@description('endpoint: a data collection endpoint in front of the rules. direct: one rule with an endpoint of its own.')
param ingestion string = 'endpoint'

@minValue(1)
@maxValue(10)
@description('Data collection rules with the same streams: each takes 2 GB and 12,000 requests a minute. More than one needs ingestion=endpoint.')
param dcrCount int = 1

@description('Leave out columns of long texts that a SIEM seldom reads, to pay for less (infra/generated/dataflows-lean.json).')
param leanTables bool = false

@allowed([ 'storage', 'scheduler' ])
@description('Where Durable Functions keeps its state: Azure Storage, or the Durable Task Scheduler. The package must be built for the same one (make package PROVIDER=…).')
param durableProvider string = 'storage'

@allowed([ 'Consumption', 'Dedicated' ])
param schedulerSku string = 'Consumption'

@description('Private endpoints for storage and vault, and a virtual network for the app.')
param networkIsolation bool = false

@description('With network isolation: send rows through an Azure Monitor private link scope, and close the endpoint to the internet.')
param privateIngestion bool = false

@description('Whether the app\'s HTTP API can be reached from the internet. false needs network isolation, and a deployment from inside the network.')
param apiPublicAccess bool = true

@description('Address ranges (CIDR) that may call the HTTP API, separated by commas. Empty: all, with a function key.')
param apiAllowedRanges string = ''

@allowed([ '3.11', '3.12', '3.13' ])
param pythonVersion string = '3.12'

@allowed([ 512, 2048, 4096 ])
param instanceMemoryMB int = 2048

@minValue(40)
@maxValue(1000)
param maximumInstanceCount int = 40

@minValue(0)
@maxValue(20)
@description('Instances that are kept warm for the durable functions; each costs money around the clock.')
param alwaysReadyInstances int = 0

@minValue(2)
@maxValue(365)
@description('Days that staged data is kept: raw pages, rows, rejects, receipts, dead letters.')
param stagedRetentionDays int = 30

@description('Settings of the app beside those that the template knows (docs/configuration.md).')
param appSettings object = {}

@description('Make alerts on failed, incomplete and stale runs.')
param deployAlerts bool = true

@description('Address that alerts are mailed to. Empty: none.')
param alertEmail string = ''

@description('Resource IDs of action groups that alerts call, separated by commas.')
param alertActionGroups string = ''

@allowed([ 6, 12, 24, 48 ])
@description('A product without a complete run for so long is stale. A log alert cannot look back further than two days.')
param staleAfterHours int = 24

@description('Save the CAASM functions (CAASM_Assets, CAASM_Exposure and the others) in the workspace.')
param deployContent bool = true

@description('Save the hunting queries too (with deployContent).')
param deployHunting bool = true

@description('Make the analytics rules too (with deployContent); the workspace has to have Microsoft Sentinel.')
param deployRules bool = true

@description('Rules that are made and not enabled: names of files in sentinel/content/rules without .yaml, separated by commas.')
param disabledRules string = ''

@description('Make the workbook too (with deployContent).')
param deployWorkbook bool = true

@description('Make the watchlist of critical assets and the playbook that refreshes it (with deployContent); the workspace has to have Microsoft Sentinel.')
param deployWatchlist bool = false

@description('Make the playbooks that incidents start (with deployContent); the workspace has to have Microsoft Sentinel.')
param deployPlaybooks bool = false

@description('Add a Data Factory whose pipeline starts a load and waits for its end.')
param deployDataFactory bool = false

@description('Object ID of who deploys: may write secrets into the vault and read staged data. Empty: nobody.')
param principalId string = ''

@allowed([ 'User', 'Group', 'ServicePrincipal' ])
param principalType string = 'User'

var tags = { 'azd-env-name': environmentName }

resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = {
  name: resourceGroupName
  location: location
  tags: tags
}

module resources 'resources.bicep' = {
  name: 'caasm-resources'
  scope: group
  params: {
    environmentName: environmentName
    location: location
    tags: tags
    sources: sources
    sourceUrls: sourceUrls
    scheduledSources: scheduledSources
    fullSchedule: fullSchedule
    deltaSchedule: deltaSchedule
    workspaceResourceId: workspaceResourceId
    workspaceLocation: workspaceLocation
    onboardSentinel: onboardSentinel
    telemetryWorkspaceResourceId: telemetryWorkspaceResourceId
    retentionInDays: retentionInDays
    ingestion: ingestion
    dcrCount: dcrCount
    leanTables: leanTables
    durableProvider: durableProvider
    schedulerSku: schedulerSku
    networkIsolation: networkIsolation
    privateIngestion: privateIngestion
    apiPublicAccess: apiPublicAccess
    apiAllowedRanges: apiAllowedRanges
    pythonVersion: pythonVersion
    instanceMemoryMB: instanceMemoryMB
    maximumInstanceCount: maximumInstanceCount
    alwaysReadyInstances: alwaysReadyInstances
    stagedRetentionDays: stagedRetentionDays
    appSettings: appSettings
    deployAlerts: deployAlerts
    alertEmail: alertEmail
    alertActionGroups: alertActionGroups
    staleAfterHours: staleAfterHours
    deployContent: deployContent
    deployHunting: deployHunting
    deployRules: deployRules
    disabledRules: disabledRules
    deployWorkbook: deployWorkbook
    deployWatchlist: deployWatchlist
    deployPlaybooks: deployPlaybooks
    deployDataFactory: deployDataFactory
    principalId: principalId
    principalType: principalType
  }
}

output AZURE_LOCATION string = location
output AZURE_RESOURCE_GROUP string = group.name
output AZURE_FUNCTION_NAME string = resources.outputs.functionAppName
output AZURE_KEY_VAULT_NAME string = resources.outputs.vaultName
output AZURE_IDENTITY_PRINCIPAL_ID string = resources.outputs.identityPrincipalId
output INGESTION_ENDPOINT string = resources.outputs.ingestionEndpoint
output DCR_IMMUTABLE_ID string = resources.outputs.dcrImmutableId
output AZURE_DATA_FACTORY_NAME string = resources.outputs.dataFactoryName
output AZURE_DATA_FACTORY_VAULT_NAME string = resources.outputs.dataFactoryVaultName
output AZURE_PLAYBOOK_VAULT_NAME string = resources.outputs.playbookVaultName
