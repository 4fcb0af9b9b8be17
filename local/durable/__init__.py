"""A local Durable Functions host: the unmodified function app on durabletask's in-memory engine, on loopback.

Invariant: the real azure-functions-durable replay decides what an orchestrator does; everything here only restates, from
their sources, what the Durable extension and DurableTask.Core do around it. What runs here runs in Azure.

Read it in this order: `functions` (the app, indexed), `history` (events as the JSON the SDK takes), `replay` (the SDK's answer
as new actions), `engine` and `journal` (state), `worker` (work items), `host` (one running app; the in-process API for tests),
`chaos` (at-least-once, on purpose), `taskhub` and `management` (the Durable HTTP API), `triggers` (the app's own HTTP routes, admin endpoints).
"""
