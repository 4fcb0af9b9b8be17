@description('Two accounts: the host\'s (package, locks, durable state) and the data\'s (what is staged), so that nobody needs rights on both.')
param token string
param location string
param tags object
param publicAccess bool
@description('Whether Durable Functions keeps its queues and tables here.')
param durableState bool
param stagedRetentionDays int
param appPrincipalId string
param readerPrincipalId string
param readerPrincipalType string

var packageContainerName = 'app-package'
var stagingContainerName = 'caasm'
var roles = loadJsonContent('../roles.json')
var hostRoles = concat([ roles.storageBlobDataOwner.id ], durableState ? [
  roles.storageQueueDataContributor.id
  roles.storageTableDataContributor.id
] : [])
var closed = {
  accessTier: 'Hot'
  allowBlobPublicAccess: false
  allowCrossTenantReplication: false
  allowSharedKeyAccess: false
  defaultToOAuthAuthentication: true
  minimumTlsVersion: 'TLS1_2'
  supportsHttpsTrafficOnly: true
  publicNetworkAccess: publicAccess ? 'Enabled' : 'Disabled'
  networkAcls: {
    bypass: 'None'
    defaultAction: publicAccess ? 'Allow' : 'Deny'
  }
}

resource host 'Microsoft.Storage/storageAccounts@2025-06-01' = {
  name: 'stcaasmh${token}'
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: { name: 'Standard_LRS' }
  properties: closed

  resource blobs 'blobServices' = {
    name: 'default'
    properties: {}

    resource package 'containers' = {
      name: packageContainerName
      properties: { publicAccess: 'None' }
    }
  }
}

resource data 'Microsoft.Storage/storageAccounts@2025-06-01' = {
  name: 'stcaasmd${token}'
  location: location
  tags: tags
  kind: 'StorageV2'
  sku: { name: 'Standard_LRS' }
  properties: closed

  resource lifecycle 'managementPolicies' = {
    name: 'default'
    properties: {
      policy: {
        rules: [
          {
            name: 'staged'
            enabled: true
            type: 'Lifecycle'
            definition: {
              filters: { blobTypes: [ 'blockBlob', 'appendBlob' ], prefixMatch: [ '${stagingContainerName}/runs/' ] }
              actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: stagedRetentionDays } } }
            }
          }
          {
            // The index of the last complete run is what a delta is compared with: it outlives the data, and the next complete run renews it.
            name: 'index'
            enabled: true
            type: 'Lifecycle'
            definition: {
              filters: { blobTypes: [ 'blockBlob' ], prefixMatch: [ '${stagingContainerName}/index/' ] }
              actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: max(stagedRetentionDays, 60) } } }
            }
          }
          {
            name: 'manifests'
            enabled: true
            type: 'Lifecycle'
            definition: {
              filters: { blobTypes: [ 'blockBlob' ], prefixMatch: [ '${stagingContainerName}/manifests/' ] }
              actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: 730 } } }
            }
          }
        ]
      }
    }
  }
}

resource dataBlobs 'Microsoft.Storage/storageAccounts/blobServices@2025-06-01' = {
  parent: data
  name: 'default'
  properties: {
    deleteRetentionPolicy: { enabled: true, days: 7 }
    containerDeleteRetentionPolicy: { enabled: true, days: 7 }
  }
}

resource staging 'Microsoft.Storage/storageAccounts/blobServices/containers@2025-06-01' = {
  parent: dataBlobs
  name: stagingContainerName
  properties: { publicAccess: 'None' }
}

resource hostAssignments 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for role in hostRoles: {
  name: guid(host.id, appPrincipalId, role)
  scope: host
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', role)
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
  }
}]

resource stagingWriter 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(staging.id, appPrincipalId, roles.storageBlobDataContributor.id)
  scope: staging
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDataContributor.id)
    principalId: appPrincipalId
    principalType: 'ServicePrincipal'
  }
}

resource stagingReader 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(readerPrincipalId)) {
  name: guid(staging.id, readerPrincipalId, roles.storageBlobDataReader.id)
  scope: staging
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.storageBlobDataReader.id)
    principalId: readerPrincipalId
    principalType: readerPrincipalType
  }
}

output hostAccountId string = host.id
output hostAccountName string = host.name
output dataAccountId string = data.id
output dataAccountName string = data.name
output packageContainer string = packageContainerName
output stagingContainer string = stagingContainerName
