@description('What takes the rows: an endpoint and rules, or one rule with its own endpoint. Every rule has all streams.')
param token string
param location string
param tags object
param workspaceId string
param diagnosticsWorkspaceId string
param writerPrincipalId string
param direct bool
param count int
param lean bool
param publicAccess bool

var publisher = loadJsonContent('../roles.json').monitoringMetricsPublisher.id
var flows = lean ? loadJsonContent('../generated/dataflows-lean.json') : loadJsonContent('../generated/dataflows.json')
var definition = {
  description: 'CAASM assets, findings and runs.'
  streamDeclarations: loadJsonContent('../generated/streams.json')
  destinations: {
    logAnalytics: [
      {
        name: 'sentinel'
        workspaceResourceId: workspaceId
      }
    ]
  }
  dataFlows: map(flows, flow => {
    streams: flow.streams
    destinations: [ 'sentinel' ]
    transformKql: flow.transformKql
    outputStream: flow.outputStream
  })
}

resource endpoint 'Microsoft.Insights/dataCollectionEndpoints@2023-03-11' = if (!direct) {
  name: 'dce-caasm-${token}'
  location: location
  tags: tags
  properties: {
    networkAcls: {
      publicNetworkAccess: publicAccess ? 'Enabled' : 'Disabled'
    }
  }
}

resource rules 'Microsoft.Insights/dataCollectionRules@2023-03-11' = [for i in range(0, direct ? 0 : count): {
  name: 'dcr-caasm-${token}-${i}'
  location: location
  tags: tags
  properties: union(definition, { dataCollectionEndpointId: endpoint.id })
}]

resource directRule 'Microsoft.Insights/dataCollectionRules@2023-03-11' = if (direct) {
  name: 'dcr-caasm-${token}-direct'
  location: location
  tags: tags
  kind: 'Direct'
  properties: definition
}

resource writers 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for i in range(0, direct ? 0 : count): {
  name: guid(rules[i].id, writerPrincipalId, publisher)
  scope: rules[i]
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', publisher)
    principalId: writerPrincipalId
    principalType: 'ServicePrincipal'
  }
}]

resource directWriter 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (direct) {
  name: guid(directRule.id, writerPrincipalId, publisher)
  scope: directRule
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', publisher)
    principalId: writerPrincipalId
    principalType: 'ServicePrincipal'
  }
}

resource errors 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = [for i in range(0, direct ? 0 : count): {
  name: 'errors'
  scope: rules[i]
  properties: {
    workspaceId: diagnosticsWorkspaceId
    logs: [ { category: 'LogErrors', enabled: true } ]
  }
}]

resource directErrors 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = if (direct) {
  name: 'errors'
  scope: directRule
  properties: {
    workspaceId: diagnosticsWorkspaceId
    logs: [ { category: 'LogErrors', enabled: true } ]
  }
}

output ingestionEndpoint string = direct ? directRule!.properties.endpoints.logsIngestion : endpoint!.properties.logsIngestion.endpoint
output ruleIds array = [for i in range(0, direct ? 0 : count): rules[i].properties.immutableId]
output directRuleId string = direct ? directRule!.properties.immutableId : ''
output endpointResourceIds array = direct ? [] : [ endpoint.id ]
