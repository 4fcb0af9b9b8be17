param environmentName string
param location string = resourceGroup().location
param tags object = {}
param sources string
param sourceUrls string = ''
param scheduledSources string = sources
param fullSchedule string = '0 0 2 * * 6'
param deltaSchedule string = '0 0 */4 * * *'
param workspaceResourceId string = ''
param workspaceLocation string = location
param onboardSentinel bool = empty(workspaceResourceId)
param telemetryWorkspaceResourceId string = ''
param retentionInDays int = 90
@allowed([ 'endpoint', 'direct' ])
param ingestion string = 'endpoint'
param dcrCount int = 1
param leanTables bool = false
@allowed([ 'storage', 'scheduler' ])
param durableProvider string = 'storage'
param schedulerSku string = 'Consumption'
param networkIsolation bool = false
param privateIngestion bool = false
param apiPublicAccess bool = true
param apiAllowedRanges string = ''
param pythonVersion string = '3.12'
param instanceMemoryMB int = 2048
param maximumInstanceCount int = 40
param alwaysReadyInstances int = 0
param stagedRetentionDays int = 30
param appSettings object = {}
param deployAlerts bool = true
param alertEmail string = ''
param alertActionGroups string = ''
param staleAfterHours int = 24
param deployContent bool = true
param deployHunting bool = true
param deployRules bool = true
param disabledRules string = ''
param deployWorkbook bool = true
param deployWatchlist bool = false
param deployPlaybooks bool = false
param deployDataFactory bool = false
param principalId string = ''
@allowed([ 'User', 'Group', 'ServicePrincipal' ])
param principalType string = 'User'

var token = toLower(uniqueString(subscription().id, resourceGroup().id, environmentName))
var newWorkspace = empty(workspaceResourceId)
var newTelemetry = empty(telemetryWorkspaceResourceId)
var workspaceParts = split(newWorkspace ? '////////' : workspaceResourceId, '/')
var workspaceSubscription = newWorkspace ? subscription().subscriptionId : workspaceParts[2]
var workspaceGroup = newWorkspace ? resourceGroup().name : workspaceParts[4]
var workspaceName = newWorkspace ? 'log-caasm-${token}' : workspaceParts[8]
// What is made beside an existing workspace has to be in that workspace's region.
var besideWorkspace = newWorkspace ? location : workspaceLocation
var useScheduler = durableProvider == 'scheduler'
var privateLinkScope = networkIsolation && privateIngestion
var directIngestion = ingestion == 'direct' && dcrCount == 1
var logAnalyticsEndpoint = loadJsonContent('clouds.json')[environment().name].logAnalytics
var storageSuffix = environment().suffixes.storage

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30' = {
  name: 'id-caasm-${token}'
  location: location
  tags: tags
}

module workspace 'modules/workspace.bicep' = if (newWorkspace) {
  name: 'caasm-workspace'
  params: {
    name: workspaceName
    location: location
    tags: tags
    retentionInDays: retentionInDays
  }
}

module telemetryWorkspace 'modules/workspace.bicep' = if (newTelemetry) {
  name: 'caasm-telemetry-workspace'
  params: {
    name: 'log-caasm-app-${token}'
    location: location
    tags: tags
    retentionInDays: 30
  }
}

module sentinel 'modules/sentinel.bicep' = if (onboardSentinel) {
  name: 'caasm-sentinel'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    workspaceName: workspaceName
  }
  dependsOn: [
    workspace
  ]
}

module tables 'modules/tables.bicep' = {
  name: 'caasm-tables'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    workspaceName: workspaceName
    retentionInDays: retentionInDays
  }
  dependsOn: [
    workspace
  ]
}

module content 'modules/content.bicep' = if (deployContent) {
  name: 'caasm-content'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    workspaceName: workspaceName
    hunting: deployHunting
  }
  dependsOn: [
    tables
  ]
}

// The service runs a rule's query before it takes the rule, so tables and functions come first.
module detections 'modules/detections.bicep' = if (deployContent && deployRules) {
  name: 'caasm-detections'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    workspaceName: workspaceName
    disabled: disabledRules
  }
  dependsOn: [
    content
    sentinel
  ]
}

module workbook 'modules/workbook.bicep' = if (deployContent && deployWorkbook) {
  name: 'caasm-workbook'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    workspaceName: workspaceName
    location: besideWorkspace
    tags: tags
  }
  dependsOn: [
    workspace
  ]
}

resource target 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
}

module watchlist 'modules/watchlist.bicep' = if (deployContent && deployWatchlist) {
  name: 'caasm-watchlist'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    workspaceName: workspaceName
  }
  dependsOn: [
    sentinel
  ]
}

module refresh 'modules/refresh.bicep' = if (deployContent && deployWatchlist) {
  name: 'caasm-refresh'
  params: {
    location: location
    tags: tags
    workspaceCustomerId: target.properties.customerId
    watchlistId: watchlist!.outputs.id
    logAnalyticsEndpoint: logAnalyticsEndpoint
  }
  dependsOn: [
    content
  ]
}

module playbooks 'modules/playbooks.bicep' = if (deployContent && deployPlaybooks) {
  name: 'caasm-playbooks'
  params: {
    token: token
    location: location
    tags: tags
    workspaceCustomerId: target.properties.customerId
    logAnalyticsEndpoint: logAnalyticsEndpoint
    functionAppHost: functionApp.outputs.hostName
    writerPrincipalId: principalId
    writerPrincipalType: principalType
  }
  dependsOn: [
    content
  ]
}

module refreshRole 'modules/workspacerole.bicep' = if (deployContent && deployWatchlist) {
  name: 'caasm-role-refresh'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    workspaceName: workspaceName
    principalId: refresh!.outputs.principalId
    role: 'sentinelContributor'
  }
}

module enrichRole 'modules/workspacerole.bicep' = if (deployContent && deployPlaybooks) {
  name: 'caasm-role-enrich'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    workspaceName: workspaceName
    principalId: playbooks!.outputs.enrichPrincipalId
    role: 'sentinelResponder'
  }
}

module ticketRole 'modules/workspacerole.bicep' = if (deployContent && deployPlaybooks) {
  name: 'caasm-role-ticket'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    workspaceName: workspaceName
    principalId: playbooks!.outputs.ticketPrincipalId
    role: 'sentinelResponder'
  }
}

module loadRole 'modules/workspacerole.bicep' = if (deployContent && deployPlaybooks) {
  name: 'caasm-role-load'
  scope: resourceGroup(workspaceSubscription, workspaceGroup)
  params: {
    workspaceName: workspaceName
    principalId: playbooks!.outputs.loadPrincipalId
    role: 'sentinelResponder'
  }
}

module rules 'modules/ingestion.bicep' = {
  name: 'caasm-ingestion'
  params: {
    token: token
    location: besideWorkspace
    tags: tags
    workspaceId: newWorkspace ? workspace!.outputs.id : workspaceResourceId
    diagnosticsWorkspaceId: newTelemetry ? telemetryWorkspace!.outputs.id : telemetryWorkspaceResourceId
    writerPrincipalId: identity.properties.principalId
    direct: directIngestion
    count: dcrCount
    lean: leanTables
    publicAccess: !privateLinkScope || directIngestion
  }
  dependsOn: [
    tables
  ]
}

module storage 'modules/storage.bicep' = {
  name: 'caasm-storage'
  params: {
    token: token
    location: location
    tags: tags
    publicAccess: !networkIsolation
    durableState: !useScheduler
    stagedRetentionDays: stagedRetentionDays
    appPrincipalId: identity.properties.principalId
    readerPrincipalId: principalId
    readerPrincipalType: principalType
  }
}

module vault 'modules/vault.bicep' = {
  name: 'caasm-vault'
  params: {
    name: 'kv-${token}'
    location: location
    tags: tags
    publicAccess: !networkIsolation
    readerPrincipalId: identity.properties.principalId
    writerPrincipalId: principalId
    writerPrincipalType: principalType
  }
}

module scheduler 'modules/scheduler.bicep' = if (useScheduler) {
  name: 'caasm-scheduler'
  params: {
    name: 'dts-caasm-${token}'
    location: location
    tags: tags
    sku: schedulerSku
    workerPrincipalId: identity.properties.principalId
  }
}

module vnet 'modules/vnet.bicep' = if (networkIsolation) {
  name: 'caasm-vnet'
  params: {
    name: 'vnet-caasm-${token}'
    location: location
    tags: tags
  }
}

module endpoints 'modules/endpoints.bicep' = if (networkIsolation) {
  name: 'caasm-endpoints'
  params: {
    token: token
    location: location
    tags: tags
    vnetId: vnet!.outputs.id
    subnetId: vnet!.outputs.endpointSubnetId
    zones: [
      'privatelink.blob.${storageSuffix}'
      'privatelink.queue.${storageSuffix}'
      'privatelink.table.${storageSuffix}'
      'privatelink.vaultcore.azure.net'
    ]
    targets: concat([
      { name: 'host-blob', id: storage.outputs.hostAccountId, group: 'blob', zones: [ 'privatelink.blob.${storageSuffix}' ] }
      { name: 'data-blob', id: storage.outputs.dataAccountId, group: 'blob', zones: [ 'privatelink.blob.${storageSuffix}' ] }
      { name: 'vault', id: vault.outputs.id, group: 'vault', zones: [ 'privatelink.vaultcore.azure.net' ] }
    ], useScheduler ? [] : [
      { name: 'host-queue', id: storage.outputs.hostAccountId, group: 'queue', zones: [ 'privatelink.queue.${storageSuffix}' ] }
      { name: 'host-table', id: storage.outputs.hostAccountId, group: 'table', zones: [ 'privatelink.table.${storageSuffix}' ] }
    ])
  }
}

module monitorLink 'modules/monitorlink.bicep' = if (privateLinkScope) {
  name: 'caasm-monitor-link'
  params: {
    token: token
    tags: tags
    linkedResourceIds: concat(rules.outputs.endpointResourceIds, [ functionApp.outputs.insightsId ])
  }
}

module monitorEndpoints 'modules/endpoints.bicep' = if (privateLinkScope) {
  name: 'caasm-monitor-endpoints'
  params: {
    token: token
    location: location
    tags: tags
    vnetId: vnet!.outputs.id
    subnetId: vnet!.outputs.endpointSubnetId
    zones: [
      'privatelink.monitor.azure.com'
      'privatelink.oms.opinsights.azure.com'
      'privatelink.ods.opinsights.azure.com'
      'privatelink.agentsvc.azure-automation.net'
    ]
    targets: [
      {
        name: 'monitor'
        id: monitorLink!.outputs.id
        group: 'azuremonitor'
        zones: [
          'privatelink.monitor.azure.com'
          'privatelink.oms.opinsights.azure.com'
          'privatelink.ods.opinsights.azure.com'
          'privatelink.agentsvc.azure-automation.net'
          'privatelink.blob.${storageSuffix}'
        ]
      }
    ]
  }
  dependsOn: [
    endpoints
  ]
}

module functionApp 'modules/function.bicep' = {
  name: 'caasm-function'
  params: {
    token: token
    location: location
    tags: tags
    identityId: identity.id
    identityClientId: identity.properties.clientId
    identityPrincipalId: identity.properties.principalId
    telemetryWorkspaceId: newTelemetry ? telemetryWorkspace!.outputs.id : telemetryWorkspaceResourceId
    hostAccountName: storage.outputs.hostAccountName
    dataAccountName: storage.outputs.dataAccountName
    packageContainer: storage.outputs.packageContainer
    stagingContainer: storage.outputs.stagingContainer
    vaultName: vault.outputs.name
    sources: sources
    sourceUrls: sourceUrls
    scheduledSources: scheduledSources
    fullSchedule: fullSchedule
    deltaSchedule: deltaSchedule
    ingestionEndpoint: rules.outputs.ingestionEndpoint
    dcrImmutableId: directIngestion ? rules.outputs.directRuleId : join(rules.outputs.ruleIds, ',')
    schedulerEndpoint: useScheduler ? scheduler!.outputs.endpoint : ''
    useScheduler: useScheduler
    subnetId: networkIsolation ? vnet!.outputs.appSubnetId : ''
    publicAccess: apiPublicAccess || !networkIsolation
    allowedRanges: apiAllowedRanges
    pythonVersion: pythonVersion
    instanceMemoryMB: instanceMemoryMB
    maximumInstanceCount: maximumInstanceCount
    alwaysReadyInstances: alwaysReadyInstances
    appSettings: appSettings
  }
  dependsOn: [
    endpoints
  ]
}

module siteEndpoint 'modules/endpoints.bicep' = if (networkIsolation && !apiPublicAccess) {
  name: 'caasm-site-endpoint'
  params: {
    token: token
    location: location
    tags: tags
    vnetId: vnet!.outputs.id
    subnetId: vnet!.outputs.endpointSubnetId
    zones: [ 'privatelink.azurewebsites.net' ]
    targets: [
      { name: 'site', id: functionApp.outputs.id, group: 'sites', zones: [ 'privatelink.azurewebsites.net' ] }
    ]
  }
}

module alerts 'modules/alerts.bicep' = if (deployAlerts) {
  name: 'caasm-alerts'
  params: {
    token: token
    location: besideWorkspace
    tags: tags
    workspaceId: newWorkspace ? workspace!.outputs.id : workspaceResourceId
    email: alertEmail
    actionGroups: alertActionGroups
    expectedSources: sources
    staleAfterHours: staleAfterHours
  }
  dependsOn: [
    tables
  ]
}

module dataFactory 'modules/datafactory.bicep' = if (deployDataFactory) {
  name: 'caasm-datafactory'
  params: {
    token: token
    location: location
    tags: tags
    functionAppHost: functionApp.outputs.hostName
    sources: sources
    writerPrincipalId: principalId
    writerPrincipalType: principalType
  }
}

output functionAppName string = functionApp.outputs.name
output vaultName string = vault.outputs.name
output identityPrincipalId string = identity.properties.principalId
output ingestionEndpoint string = rules.outputs.ingestionEndpoint
output dcrImmutableId string = directIngestion ? rules.outputs.directRuleId : join(rules.outputs.ruleIds, ',')
output dataFactoryName string = deployDataFactory ? dataFactory!.outputs.name : ''
output dataFactoryVaultName string = deployDataFactory ? dataFactory!.outputs.vaultName : ''
output playbookVaultName string = deployContent && deployPlaybooks ? playbooks!.outputs.vaultName : ''
