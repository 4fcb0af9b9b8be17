@description('What analysts use, saved in the workspace: the functions that answer from the tables, and the hunting queries.')
param workspaceName string
param hunting bool

// A file's first line is `// Name(parameters)`.
var functions = [
  loadTextContent('../../sentinel/content/functions/CAASM_AlertAssets.kql')
  loadTextContent('../../sentinel/content/functions/CAASM_AssetNames.kql')
  loadTextContent('../../sentinel/content/functions/CAASM_Assets.kql')
  loadTextContent('../../sentinel/content/functions/CAASM_Coverage.kql')
  loadTextContent('../../sentinel/content/functions/CAASM_CriticalAssets.kql')
  loadTextContent('../../sentinel/content/functions/CAASM_Exposure.kql')
  loadTextContent('../../sentinel/content/functions/CAASM_Findings.kql')
  loadTextContent('../../sentinel/content/functions/CAASM_InternetFacing.kql')
  loadTextContent('../../sentinel/content/functions/CAASM_Relationships.kql')
  loadTextContent('../../sentinel/content/functions/CAASM_Runs.kql')
]

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

resource saved 'Microsoft.OperationalInsights/workspaces/savedSearches@2025-07-01' = [for text in functions: {
  parent: workspace
  name: split(substring(text, 3), '(')[0]
  properties: {
    category: 'CAASM'
    displayName: split(substring(text, 3), '(')[0]
    functionAlias: split(substring(text, 3), '(')[0]
    functionParameters: split(split(text, '(')[1], ')')[0]
    query: text
    version: 2
  }
}]

resource queries 'Microsoft.OperationalInsights/workspaces/savedSearches@2025-07-01' = [for query in (hunting ? loadJsonContent('../generated/hunting.json') : []): {
  parent: workspace
  name: query.id
  properties: query.properties
  dependsOn: [
    saved
  ]
}]
