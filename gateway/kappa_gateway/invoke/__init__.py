"""One invocation's way: a slot, a connection, the answer, and what is counted. Free of ASGI, so that all ways in share it.

`invocation` reads as the way from top to bottom. `invoker` is what all of them share, `request` what is sent, `outcome` how
they end without an answer, `cold_start` where a start's time went, `peers` the other gateways that requests are passed on
to. Imports `pods` and `transport`.
"""
