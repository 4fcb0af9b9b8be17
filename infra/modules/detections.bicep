@description('Analytics rules on the inventory. They need Microsoft Sentinel on the workspace, and the functions of content.bicep.')
param workspaceName string
@description('Names of rules (their files in sentinel/content/rules, without .yaml) that are made and not enabled, separated by commas.')
param disabled string

var off = map(split(disabled, ','), name => trim(name))

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

resource rules 'Microsoft.SecurityInsights/alertRules@2025-09-01' = [for rule in loadJsonContent('../generated/rules.json'): {
  scope: workspace
  name: rule.id
  kind: 'Scheduled'
  properties: union(rule.properties, {
    enabled: !contains(off, rule.file)
  })
}]
