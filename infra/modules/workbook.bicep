@description('The workbook, beside the workspace that it asks.')
param workspaceName string
param location string
param tags object

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(workspace.id, 'caasm-workbook')
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    category: 'sentinel'
    displayName: 'CAASM: inventory, coverage, exposure'
    serializedData: loadTextContent('../../sentinel/content/workbooks/CAASM.json')
    sourceId: workspace.id
    version: '1.0'
  }
}
