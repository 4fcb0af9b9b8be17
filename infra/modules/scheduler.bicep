@description('Durable Task Scheduler: keeps the orchestrations\' state instead of queues and tables.')
param name string
param location string
param tags object
param sku string
param workerPrincipalId string

@minLength(1)
@description('Ranges that may reach the scheduler; an empty list denies everything. Flex Consumption has no fixed addresses without a NAT gateway.')
param ipAllowlist array = [ '0.0.0.0/0' ]

var contributor = loadJsonContent('../roles.json').durableTaskDataContributor.id
// The package names the same hub.
var hubName = loadJsonContent('../../host.json').extensions.durableTask.hubName
var capacity = sku == 'Dedicated' ? { capacity: 1 } : {}

resource scheduler 'Microsoft.DurableTask/schedulers@2026-02-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    ipAllowlist: ipAllowlist
    sku: union({ name: sku }, capacity)
  }
}

resource hub 'Microsoft.DurableTask/schedulers/taskHubs@2026-02-01' = {
  parent: scheduler
  name: hubName
}

resource worker 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(hub.id, workerPrincipalId, contributor)
  scope: hub
  properties: {
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', contributor)
    principalId: workerPrincipalId
    principalType: 'ServicePrincipal'
  }
}

output endpoint string = scheduler.properties.endpoint
