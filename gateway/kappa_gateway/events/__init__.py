"""Asynchronous invocations: accepted into the queue, received as capacity allows, attempted, settled, delivered on.

`event_run` reads from top to bottom in the order of an event's life. `intake` takes events in, `pump` receives a lane's
events, `lanes` holds the pumps, `discovery` looks at what the queue holds, `settlement` says what follows an attempt,
`destinations` brings records to web addresses and NATS subjects, `administration` answers what people ask. `service`
composes them. Imports `invoke`, `pods`, `transport` and the queue's protocol.
"""
