"""Local mode: the gateway without a cluster. Functions are read from files, and their pods are processes of this machine.

From file to process: `manifests` reads files (`yaml_source` knows lines and fields, `problems` words what is wrong),
`resolve` puts together what a function's process gets (environment, code files), `catalog` is what is served, with
`status` as the operator would set it. `process` is one agent, `function_pods` keeps a function's processes at the number
that `kappa_core.scaling` decides, `backend` is what the gateway runs, `up` the whole of `kappa local up`, `console` its terminal.
"""
