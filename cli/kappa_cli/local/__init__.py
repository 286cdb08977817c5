"""Local mode: the gateway without a cluster. Functions are read from files, and their pods are agent processes of this
machine.

`up` is the whole of `kappa local up`: it composes the terminal (`console`, `banner`), the backend and the gateway.
`backend` is what the gateway runs instead of the Kubernetes one: it reads the files again when they change. `served` is
what those files say: the functions, and the processes of each. `gateway` runs the gateway; it and `processes.pods` are
the only modules that import it.

Imports go downwards: `up > gateway | banner > backend > served > processes > manifests | console | state_folder`.
"""
