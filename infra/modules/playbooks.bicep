@description('The playbooks that incidents start: Logic Apps, each with an identity of its own, and a vault for the two secrets that some of them read.')
param token string
param location string
param tags object
param workspaceCustomerId string
param logAnalyticsEndpoint string
param functionAppHost string
param writerPrincipalId string
param writerPrincipalType string

var vaultName = 'kv-play-${token}'
var asking = {
  workspaceId: { value: workspaceCustomerId }
  logAnalytics: { value: logAnalyticsEndpoint }
}
var reading = union(asking, {
  vaultUri: { value: 'https://${vaultName}${environment().suffixes.keyvaultDns}/' }
  vaultAudience: { value: 'https://${substring(environment().suffixes.keyvaultDns, 1)}' }
})
var connected = {
  '$connections': {
    value: {
      azuresentinel: {
        connectionId: connection.id
        connectionName: connection.name
        id: subscriptionResourceId('Microsoft.Web/locations/managedApis', location, 'azuresentinel')
        connectionProperties: { authentication: { type: 'ManagedServiceIdentity' } }
      }
    }
  }
}

resource connection 'Microsoft.Web/connections@2016-06-01' = {
  name: 'azuresentinel-caasm-${token}'
  location: location
  tags: tags
  kind: 'V1'
  properties: {
    displayName: 'CAASM playbooks, managed identity'
    parameterValueType: 'Alternative'
    api: { id: subscriptionResourceId('Microsoft.Web/locations/managedApis', location, 'azuresentinel') }
  }
}

// A vault of its own: the playbooks may read the function key and the address of the ticket system, never a product's secret.
module vault 'vault.bicep' = {
  name: 'caasm-playbook-vault'
  params: {
    name: vaultName
    location: location
    tags: tags
    // Logic Apps of the consumption plan are outside of the virtual network.
    publicAccess: true
    readerPrincipalId: openTicket.identity.principalId
    secondReaderPrincipalId: loadDelta.identity.principalId
    writerPrincipalId: writerPrincipalId
    writerPrincipalType: writerPrincipalType
  }
}

resource enrich 'Microsoft.Logic/workflows@2019-05-01' = {
  name: 'CAASM-EnrichIncident'
  location: location
  tags: tags
  identity: { type: 'SystemAssigned' }
  properties: {
    state: 'Enabled'
    definition: loadJsonContent('../../sentinel/content/playbooks/CAASM-EnrichIncident.json')
    parameters: union(connected, asking)
  }
}

resource openTicket 'Microsoft.Logic/workflows@2019-05-01' = {
  name: 'CAASM-OpenTicket'
  location: location
  tags: tags
  identity: { type: 'SystemAssigned' }
  properties: {
    state: 'Enabled'
    definition: loadJsonContent('../../sentinel/content/playbooks/CAASM-OpenTicket.json')
    parameters: union(connected, reading)
  }
}

resource loadDelta 'Microsoft.Logic/workflows@2019-05-01' = {
  name: 'CAASM-LoadDelta'
  location: location
  tags: tags
  identity: { type: 'SystemAssigned' }
  properties: {
    state: 'Enabled'
    definition: loadJsonContent('../../sentinel/content/playbooks/CAASM-LoadDelta.json')
    parameters: union(connected, reading, { functionApp: { value: 'https://${functionAppHost}' } })
  }
}

output enrichPrincipalId string = enrich.identity.principalId
output ticketPrincipalId string = openTicket.identity.principalId
output loadPrincipalId string = loadDelta.identity.principalId
output vaultName string = vault.outputs.name
