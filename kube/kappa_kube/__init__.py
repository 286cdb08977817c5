"""The Kubernetes floor under the operator and the gateway. Of Kappa it may import `kappa_core` alone.

From the bottom up:

- `errors`: one tree for everything that can go wrong between Kappa and an API server.
- `paths`, `clock`: the API server's paths; the clocks and timers that tests replace.
- `configuration`: where the address and the credentials come from.
- `connection`: HTTP to the API server.
- `client`: get, list, watch and the writes, with a fence for the one replica that may write.
- `store`, `table`: what is known of the cluster. A `Store` takes versioned objects in any order, a `Table` those of
  reflectors, in order.
- `workqueue`: keys to reconcile.
- `reflector`, `lease`: list and watch; leader election.

kopf is not needed here: the operator's kopf handlers feed a `Store`.
"""
