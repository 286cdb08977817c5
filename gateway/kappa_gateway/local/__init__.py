"""Local mode: the gateway without a cluster. Functions are read from files, and their pods are processes of this machine.

`manifests` reads files (`yaml_source` knows lines and fields, `problems` words what is wrong), `resolve` puts together
what a function's process gets (environment, code files), `process` is one agent, `function` keeps one function's
processes at the number that `kappa_core.scaling` decides, `backend` is what the gateway runs, `console` the terminal.
"""
