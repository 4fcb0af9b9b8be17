@description('A Data Factory whose pipeline starts a load, polls our own status route, and fails when the load does.')
param token string
param location string
param tags object
param functionAppHost string
param sources string
param writerPrincipalId string
param writerPrincipalType string

var secretName = 'caasm-function-key'
var going = 'running'

resource factory 'Microsoft.DataFactory/factories@2018-06-01' = {
  name: 'adf-caasm-${token}'
  location: location
  tags: tags
  identity: { type: 'SystemAssigned' }
  properties: {}
}

// A vault of its own: the factory may read the function key, never a product's secret.
module vault 'vault.bicep' = {
  name: 'caasm-datafactory-vault'
  params: {
    name: 'kv-adf-${token}'
    location: location
    tags: tags
    // The factory's integration runtime is outside of the virtual network.
    publicAccess: true
    readerPrincipalId: factory.identity.principalId
    writerPrincipalId: writerPrincipalId
    writerPrincipalType: writerPrincipalType
  }
}

resource secrets 'Microsoft.DataFactory/factories/linkedservices@2018-06-01' = {
  parent: factory
  name: 'vault'
  properties: {
    type: 'AzureKeyVault'
    typeProperties: { baseUrl: vault.outputs.uri }
  }
}

resource app 'Microsoft.DataFactory/factories/linkedservices@2018-06-01' = {
  parent: factory
  name: 'caasm'
  properties: {
    type: 'AzureFunction'
    typeProperties: {
      functionAppUrl: 'https://${functionAppHost}'
      functionKey: {
        type: 'AzureKeyVaultSecret'
        store: { type: 'LinkedServiceReference', referenceName: secrets.name }
        secretName: secretName
      }
    }
  }
}

resource load 'Microsoft.DataFactory/factories/pipelines@2018-06-01' = {
  parent: factory
  name: 'caasm-load'
  properties: {
    description: 'Starts a load, asks for its status until it has ended, and fails unless it is complete (or incomplete, where that is accepted).'
    concurrency: 10
    parameters: {
      source: { type: 'String', defaultValue: trim(split(sources, ',')[0]) }
      mode: { type: 'String', defaultValue: 'delta' }
      pollSeconds: { type: 'Int', defaultValue: 60 }
      acceptIncomplete: { type: 'Bool', defaultValue: false }
    }
    variables: {
      status: { type: 'String', defaultValue: going }
    }
    activities: [
      {
        name: 'StartLoad'
        type: 'AzureFunctionActivity'
        linkedServiceName: { referenceName: app.name, type: 'LinkedServiceReference' }
        // A second POST would be refused with 409 when the answer to the first was lost.
        policy: { timeout: '0.00:05:00', retry: 0, secureInput: true, secureOutput: true }
        typeProperties: {
          method: 'POST'
          functionName: 'loads'
          headers: { 'Content-Type': 'application/json' }
          body: {
            type: 'Expression'
            value: '@json(concat(\'{"source":"\', pipeline().parameters.source, \'","mode":"\', pipeline().parameters.mode, \'"}\'))'
          }
        }
      }
      {
        name: 'UntilEnded'
        type: 'Until'
        dependsOn: [ { activity: 'StartLoad', dependencyConditions: [ 'Succeeded' ] } ]
        typeProperties: {
          expression: { type: 'Expression', value: '@not(equals(variables(\'status\'), \'${going}\'))' }
          timeout: '1.00:00:00'
          activities: [
            {
              name: 'Pause'
              type: 'Wait'
              typeProperties: { waitTimeInSeconds: { type: 'Expression', value: '@pipeline().parameters.pollSeconds' } }
            }
            {
              name: 'GetLoad'
              type: 'AzureFunctionActivity'
              dependsOn: [ { activity: 'Pause', dependencyConditions: [ 'Succeeded' ] } ]
              linkedServiceName: { referenceName: app.name, type: 'LinkedServiceReference' }
              policy: { timeout: '0.00:05:00', retry: 5, retryIntervalInSeconds: 60, secureInput: true, secureOutput: true }
              typeProperties: {
                method: 'GET'
                functionName: { type: 'Expression', value: '@concat(\'loads/\', activity(\'StartLoad\').output.run_id)' }
              }
            }
            {
              name: 'KeepStatus'
              type: 'SetVariable'
              dependsOn: [ { activity: 'GetLoad', dependencyConditions: [ 'Succeeded' ] } ]
              typeProperties: {
                variableName: 'status'
                value: { type: 'Expression', value: '@activity(\'GetLoad\').output.status' }
              }
            }
          ]
        }
      }
      {
        name: 'FailUnlessComplete'
        type: 'IfCondition'
        dependsOn: [ { activity: 'UntilEnded', dependencyConditions: [ 'Succeeded' ] } ]
        typeProperties: {
          expression: {
            type: 'Expression'
            value: '@or(equals(variables(\'status\'), \'complete\'), and(pipeline().parameters.acceptIncomplete, equals(variables(\'status\'), \'incomplete\')))'
          }
          ifFalseActivities: [
            {
              name: 'LoadFailed'
              type: 'Fail'
              typeProperties: {
                errorCode: 'CaasmLoadNotComplete'
                message: {
                  type: 'Expression'
                  value: '@concat(\'the load of \', pipeline().parameters.source, \' ended as \', variables(\'status\'), \'; its reasons are in CAASM_Runs_CL and in GET /api/loads\')'
                }
              }
            }
          ]
        }
      }
    ]
  }
}

resource daily 'Microsoft.DataFactory/factories/triggers@2018-06-01' = {
  parent: factory
  name: 'caasm-daily'
  properties: {
    description: 'Stopped until somebody starts it.'
    type: 'ScheduleTrigger'
    pipelines: [for source in split(sources, ','): {
      pipelineReference: { referenceName: load.name, type: 'PipelineReference' }
      parameters: { source: trim(source), mode: 'delta' }
    }]
    typeProperties: {
      recurrence: {
        frequency: 'Day'
        interval: 1
        startTime: '2026-01-01T00:00:00Z'
        timeZone: 'UTC'
        schedule: { hours: [ 3 ], minutes: [ 15 ] }
      }
    }
  }
}

resource weekly 'Microsoft.DataFactory/factories/triggers@2018-06-01' = {
  parent: factory
  name: 'caasm-weekly-full'
  properties: {
    description: 'Stopped until somebody starts it. Rules look back 14 days at most.'
    type: 'ScheduleTrigger'
    pipelines: [for source in split(sources, ','): {
      pipelineReference: { referenceName: load.name, type: 'PipelineReference' }
      parameters: { source: trim(source), mode: 'full' }
    }]
    typeProperties: {
      recurrence: {
        frequency: 'Week'
        interval: 1
        startTime: '2026-01-01T00:00:00Z'
        timeZone: 'UTC'
        schedule: { weekDays: [ 'Saturday' ], hours: [ 1 ], minutes: [ 15 ] }
      }
    }
  }
}

output name string = factory.name
output vaultName string = vault.outputs.name
