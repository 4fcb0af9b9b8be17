@description('The custom tables, from what sentinel/tables declares.')
param workspaceName string
param retentionInDays int

var tables = loadJsonContent('../generated/tables.json')

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

resource custom 'Microsoft.OperationalInsights/workspaces/tables@2025-07-01' = [for table in items(tables): {
  parent: workspace
  name: table.key
  properties: {
    plan: table.value.plan
    retentionInDays: max(table.value.retentionInDays, retentionInDays)
    totalRetentionInDays: max(table.value.retentionInDays, retentionInDays)
    schema: {
      name: table.key
      description: table.value.description
      columns: table.value.columns
    }
  }
}]
