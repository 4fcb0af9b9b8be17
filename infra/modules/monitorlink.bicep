@description('An Azure Monitor private link scope for the ingestion endpoint and the app\'s telemetry.')
param token string
param tags object
param linkedResourceIds array

resource scope 'Microsoft.Insights/privateLinkScopes@2021-07-01-preview' = {
  name: 'ampls-caasm-${token}'
  location: 'global'
  tags: tags
  properties: {
    accessModeSettings: {
      // Other resources that this network reaches keep working.
      ingestionAccessMode: 'Open'
      queryAccessMode: 'Open'
    }
  }
}

resource members 'Microsoft.Insights/privateLinkScopes/scopedResources@2021-07-01-preview' = [for (id, i) in linkedResourceIds: {
  parent: scope
  name: 'member-${i}'
  properties: { linkedResourceId: id }
}]

output id string = scope.id
