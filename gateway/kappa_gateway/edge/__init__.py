"""Everything that accepts requests: the HTTP server, the Lambda API, function URLs, WebSockets, the status API and the
internal port.

`data_path` is the ASGI app that sorts requests; `lambda_api` and `function_urls` serve invocations, `async_intake`
turns requests into events, and `app` (FastAPI) serves the rest. Imports `events`, `invoke` and `pods`; only `main`
imports it.
"""
