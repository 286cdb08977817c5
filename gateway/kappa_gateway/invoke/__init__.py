"""The path of one invocation: a slot, a connection, the answer, and its counts. Free of ASGI, so that every API shares
it.

`invocation` reads from top to bottom in the order of that path. `invoker` holds what all invocations share, `request`
what is sent to a pod, `outcome` how invocations end without an answer, and `cold_start` how long each phase of a start
took. `peers` passes requests on to other gateways. Imports `pods` and `transport`.
"""
