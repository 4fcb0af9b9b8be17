@description('The watchlist of critical assets, made empty: its items are written by the playbook CAASM-RefreshWatchlist, and a deployment leaves them alone.')
param workspaceName string

var alias = 'CAASM_CriticalAssets'

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

resource watchlist 'Microsoft.SecurityInsights/watchlists@2025-09-01' = {
  scope: workspace
  name: alias
  properties: {
    displayName: alias
    watchlistAlias: alias
    description: 'Critical assets, as the last loads have them.'
    provider: 'caasm-sentinel'
    source: 'CAASM_CriticalAssets'
    itemsSearchKey: 'AssetId'
  }
}

output id string = watchlist.id
