"""The queue of asynchronous invocations: `protocol` says what it promises, `jetstream` and `sqlite` are its adapters,
and `factory` creates the one that the settings name. Others import `protocol`; only what starts a gateway imports
`factory`.
"""
