@description('The Flex Consumption plan and the app: one user-assigned identity for everything, no stored key.')
param token string
param location string
param tags object
param identityId string
param identityClientId string
param identityPrincipalId string
param telemetryWorkspaceId string
param hostAccountName string
param dataAccountName string
param packageContainer string
param stagingContainer string
param vaultName string
param sources string
param sourceUrls string
param scheduledSources string
param fullSchedule string
param deltaSchedule string
param ingestionEndpoint string
param dcrImmutableId string
param useScheduler bool
param schedulerEndpoint string
param subnetId string
param publicAccess bool
param allowedRanges string
param pythonVersion string
param instanceMemoryMB int
param maximumInstanceCount int
param alwaysReadyInstances int
param appSettings object

var publisher = loadJsonContent('../roles.json').monitoringMetricsPublisher.id
var products = loadJsonContent('../products.json')
var storageSuffix = environment().suffixes.storage
var hostUrl = 'https://${hostAccountName}'
var audiences = {
  AzureCloud: 'https://monitor.azure.com'
  AzureUSGovernment: 'https://monitor.azure.us'
  AzureChinaCloud: 'https://monitor.azure.cn'
}
var named = map(filter(split(sources, ','), entry => !empty(trim(entry))), entry => trim(entry))
var urls = filter(split(sourceUrls, ','), entry => contains(entry, '='))
var ranges = filter(split(allowedRanges, ','), range => !empty(trim(range)))
var secretNames = flatten(map(named, source => map(products[source].secrets, secret => '${source}-${secret}')))
// TENABLE_ACCESS_KEY is the secret tenable-access-key: a vault's names have no underscores.
var secretSettings = toObject(secretNames, name => toUpper(replace(name, '-', '_')), name => '@Microsoft.KeyVault(VaultName=${vaultName};SecretName=${replace(name, '_', '-')})')
var urlSettings = toObject(urls, entry => '${toUpper(trim(split(entry, '=')[0]))}_URL', entry => trim(substring(entry, indexOf(entry, '=') + 1)))
var platformSettings = {
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identityClientId
  AzureWebJobsStorage__blobServiceUri: '${hostUrl}.blob.${storageSuffix}'
  AzureWebJobsStorage__queueServiceUri: '${hostUrl}.queue.${storageSuffix}'
  AzureWebJobsStorage__tableServiceUri: '${hostUrl}.table.${storageSuffix}'
  APPLICATIONINSIGHTS_CONNECTION_STRING: insights.properties.ConnectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
  // Huge pages for the worker's heap (memory.py): the C library reads it before the process begins.
  GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1'
}
var ownSettings = {
  AZURE_CLIENT_ID: identityClientId
  STAGING_ACCOUNT_URL: 'https://${dataAccountName}.blob.${storageSuffix}'
  STAGING_CONTAINER: stagingContainer
  INGESTION_ENDPOINT: ingestionEndpoint
  INGESTION_AUDIENCE: audiences[environment().name]
  DCR_IMMUTABLE_ID: dcrImmutableId
  SCHEDULED_SOURCES: scheduledSources
  FULL_SCHEDULE: fullSchedule
  DELTA_SCHEDULE: deltaSchedule
}
var schedulerSettings = useScheduler ? {
  DURABLE_TASK_SCHEDULER_CONNECTION_STRING: 'Endpoint=${schedulerEndpoint};Authentication=ManagedIdentity;ClientID=${identityClientId}'
} : {}
var alwaysReady = alwaysReadyInstances > 0 ? { alwaysReady: [ { name: 'durable', instanceCount: alwaysReadyInstances } ] } : {}

resource insights 'Microsoft.Insights/components@2020-02-02' = {
  name: 'appi-caasm-${token}'
  location: location
  tags: tags
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: telemetryWorkspaceId
    DisableLocalAuth: true
  }
}

resource telemetryWriter 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(insights.id, identityPrincipalId, publisher)
  scope: insights
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', publisher)
    principalId: identityPrincipalId
    principalType: 'ServicePrincipal'
  }
}

resource plan 'Microsoft.Web/serverfarms@2025-03-01' = {
  name: 'plan-caasm-${token}'
  location: location
  tags: tags
  kind: 'functionapp'
  sku: { name: 'FC1', tier: 'FlexConsumption' }
  properties: { reserved: true }
}

resource app 'Microsoft.Web/sites@2025-03-01' = {
  name: 'func-caasm-${token}'
  location: location
  tags: union(tags, { 'azd-service-name': 'caasm' })
  kind: 'functionapp,linux'
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: { '${identityId}': {} }
  }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    keyVaultReferenceIdentity: identityId
    publicNetworkAccess: publicAccess ? 'Enabled' : 'Disabled'
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    siteConfig: {
      minTlsVersion: '1.2'
      ftpsState: 'Disabled'
      ipSecurityRestrictionsDefaultAction: empty(ranges) ? 'Allow' : 'Deny'
      ipSecurityRestrictions: map(ranges, range => { ipAddress: trim(range), action: 'Allow', priority: 100, name: 'allowed' })
    }
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${hostUrl}.blob.${storageSuffix}/${packageContainer}'
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: identityId
          }
        }
      }
      runtime: { name: 'python', version: pythonVersion }
      scaleAndConcurrency: union({
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
      }, alwaysReady)
    }
  }

  resource settings 'config' = {
    name: 'appsettings'
    properties: union(appSettings, urlSettings, secretSettings, schedulerSettings, ownSettings, platformSettings)
  }

  resource scm 'basicPublishingCredentialsPolicies' = {
    name: 'scm'
    properties: { allow: false }
  }

  resource ftp 'basicPublishingCredentialsPolicies' = {
    name: 'ftp'
    properties: { allow: false }
  }
}

output id string = app.id
output name string = app.name
output hostName string = app.properties.defaultHostName
output insightsId string = insights.id
