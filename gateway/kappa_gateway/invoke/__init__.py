"""One invocation's way: a slot, a connection, the answer, and what is counted. Free of ASGI, so that all ways in share it.

`invocation` reads as the way from top to bottom; `request` is what is sent; `cold_start` tells where a start's time went;
`peers` passes requests on to another gateway. Imports `pods` and `transport`.
"""
