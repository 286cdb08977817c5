"""The HTTP client of a gateway, with the standard library alone: `client` sends one request, `lambda_api` invokes
functions, and `async_api` reads and changes asynchronous invocations. It may import the core, and nothing else of
Kappa."""
