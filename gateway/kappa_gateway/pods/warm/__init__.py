"""Cold starts from warm pools: a request that would wait takes over a pod that runs already.

`free_pods` keeps a connection to each free pod, `decision` says how many to claim (pure), `ownership` which gateway
claims, `source` offers what follows to the dispatcher, `claims` carries each claim through its life (`pods.claim` has
its states), `specialize_request` writes the request that gives a pod its function, with `signing` and `code` (archives).

Imports the records of `pods`, and `transport`. Of it, `claims` alone knows the dispatcher.
"""
