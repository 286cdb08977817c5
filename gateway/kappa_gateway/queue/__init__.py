"""The queue of asynchronous invocations: what it promises is in `protocol`; `jetstream` and `sqlite` keep it."""
