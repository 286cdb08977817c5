"""The pods of every function: which ones exist, which requests they get, and how they start.

`platform` defines what a backend reports, and `registry` applies it. `state` has the records. `dispatcher` decides
which request gets which slot (no I/O), and `dialer` finds out when a pod is ready. `claim` and `warm` are cold starts
from pools. `demand` reports to the operator. Imports `transport`.
"""
