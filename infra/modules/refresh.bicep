@description('The playbook that keeps the watchlist of critical assets as the inventory has it.')
param location string
param tags object
param workspaceCustomerId string
param watchlistId string
param logAnalyticsEndpoint string

resource workflow 'Microsoft.Logic/workflows@2019-05-01' = {
  name: 'CAASM-RefreshWatchlist'
  location: location
  tags: tags
  identity: { type: 'SystemAssigned' }
  properties: {
    state: 'Enabled'
    definition: loadJsonContent('../../sentinel/content/playbooks/CAASM-RefreshWatchlist.json')
    parameters: {
      workspaceId: { value: workspaceCustomerId }
      logAnalytics: { value: logAnalyticsEndpoint }
      resourceManager: { value: environment().resourceManager }
      watchlist: { value: '${environment().resourceManager}${substring(watchlistId, 1)}' }
    }
  }
}

output principalId string = workflow.identity.principalId
