"""From files to what is served. `reading` reads manifests (`yaml_source` knows lines and fields, `problems` words what
is wrong), `workload` resolves what a function's process gets (environment and code files), `catalog` is what is served,
with the Ready condition of `ready_status`, and `file_watch` reports changes.

Nothing here knows of processes or of the gateway. It may import the core.
"""
