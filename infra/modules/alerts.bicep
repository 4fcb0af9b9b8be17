@description('Log alerts on the ledger, CAASM_Runs_CL: runs that failed, that do not add up, and products without a complete run.')
param token string
param location string
param tags object
param workspaceId string
param email string
param actionGroups string
param expectedSources string
@allowed([ 6, 12, 24, 48 ])
param staleAfterHours int

var windows = { '6': 'PT6H', '12': 'PT12H', '24': 'P1D', '48': 'P2D' }
var named = map(filter(split(expectedSources, ','), entry => !empty(trim(entry))), entry => '"${trim(entry)}"')
var called = concat(filter(split(actionGroups, ','), id => !empty(id)), empty(email) ? [] : [ mail.id ])
var rules = [
  {
    name: 'failed'
    title: 'CAASM: a run failed'
    description: 'A run ended before its data did. Reasons are in CAASM_Runs_CL; the next load of the source takes it up.'
    severity: 1
    window: 'PT2H'
    query: loadTextContent('../alerts/failed.kql')
  }
  {
    name: 'incomplete'
    title: 'CAASM: a run is incomplete'
    description: 'A run ended, but its ledger does not add up or data was left out. Nothing was deleted on its account.'
    severity: 2
    window: 'PT2H'
    query: loadTextContent('../alerts/incomplete.kql')
  }
  {
    name: 'stale'
    title: 'CAASM: a product has no complete run'
    description: 'No complete run of a product within the time that is allowed: the inventory in Sentinel is old.'
    severity: 2
    window: windows[string(staleAfterHours)]
    query: replace(loadTextContent('../alerts/stale.kql'), '"$SOURCES"', join(named, ', '))
  }
]

resource mail 'Microsoft.Insights/actionGroups@2023-01-01' = if (!empty(email)) {
  name: 'ag-caasm-${token}'
  location: 'global'
  tags: tags
  properties: {
    groupShortName: 'caasm'
    enabled: true
    emailReceivers: [ { name: 'owner', emailAddress: email, useCommonAlertSchema: true } ]
  }
}

resource alerts 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [for rule in rules: {
  name: 'caasm-${rule.name}-${token}'
  location: location
  tags: tags
  kind: 'LogAlert'
  properties: {
    displayName: rule.title
    description: rule.description
    severity: rule.severity
    enabled: true
    scopes: [ workspaceId ]
    evaluationFrequency: 'PT1H'
    windowSize: rule.window
    criteria: {
      allOf: [
        {
          query: rule.query
          timeAggregation: 'Count'
          operator: 'GreaterThan'
          threshold: 0
          dimensions: [ { name: 'SourceName', operator: 'Include', values: [ '*' ] } ]
          failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
        }
      ]
    }
    autoMitigate: true
    actions: { actionGroups: called }
  }
}]
