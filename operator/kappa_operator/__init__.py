"""Kappa's operator, `python -m kappa_operator`: Functions → Deployments and warm pools, demand → replicas, status.

It may import `kappa_core` and `kappa_kube`, never the gateway or the runtime. `app` alone composes. kopf watches, in
`watch`, and runs the handlers; they feed the stores of `cache`. `reconcile` brings one Function to its manifest, with
`deployments`, `adoption` and `references` as its steps; `pools` does so for a warm pool. `scaler` is the one writer of
replicas, `demand_stream` brings it the gateways' demand.
"""
