"""Cold starts from warm pools: a request that would wait takes over a pod that runs already.

`free_pods` keeps a connection to each free pod. `decision` says how many to claim (pure), `ownership` which gateway
claims, and `source` offers the result to the dispatcher. `claims` follows each claim through its states, which
`pods.claim` defines. `specialize_request` writes the request that gives a pod its function, with `signing` and `code`
(archives).

Imports the records of `pods`, and `transport`. Only `claims` knows the dispatcher.
"""
