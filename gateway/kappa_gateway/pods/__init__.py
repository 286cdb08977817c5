"""The pods of every function: which there are, which requests they get, how they start.

`platform` is what a backend reports and `registry` applies it. `state` has the records, `dispatcher` decides which request
gets which slot (no I/O), `dialer` finds out when a pod is ready, `claim` and `warm` are cold starts from pools, `demand`
is what is reported to the operator. Imports `transport`.
"""
