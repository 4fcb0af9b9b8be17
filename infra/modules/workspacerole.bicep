@description('What a playbook may do in the workspace: one role for one identity.')
param workspaceName string
param principalId string
@allowed([ 'sentinelResponder', 'sentinelContributor' ])
param role string

var roles = loadJsonContent('../roles.json')

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

resource assignment 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(workspace.id, principalId, roles[role].id)
  scope: workspace
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles[role].id)
    principalId: principalId
    principalType: 'ServicePrincipal'
  }
}
