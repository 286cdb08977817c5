"""Asynchronous invocations: accepted into the queue, dispatched as capacity allows, retried, delivered on."""
