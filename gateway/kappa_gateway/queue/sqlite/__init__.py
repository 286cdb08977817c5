"""The queue in one SQLite file, for a gateway that runs alone: local mode, and tests.

`queue` is the adapter, `worker` its threads (group commit), `database` the file (lock, schema, errors), `lane_events`
and `outcomes` the statements. May import the protocol, the settings and the core.
"""
