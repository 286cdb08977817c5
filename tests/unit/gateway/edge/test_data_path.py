"""Which of the three apps serves a request."""

import pytest
from gateway_fakes import Call

from kappa_gateway.edge.data_path import DataPath


@pytest.mark.parametrize(
    ("method", "path", "served_by"),
    [
        ("POST", "/2015-03-31/functions/hello/invocations", "lambda"),
        ("POST", "/2015-03-31/functions/a%2Fb/invocations", "lambda"),
        ("GET", "/2015-03-31/functions/hello/invocations", "fallback"),
        ("POST", "/2015-03-31/functions/hello", "fallback"),
        ("GET", "/fn/default/hello/", "url"),
        ("PATCH", "/fn/default/hello/2015-03-31/functions/x/invocations", "url"),
        ("GET", "/fn/", "url"),
        ("GET", "/fn", "fallback"),
        ("GET", "/healthz", "fallback"),
        ("POST", "/v1/namespaces/default/functions/hello/async/id/redrive", "fallback"),
    ],
)
async def test_routes(method, path, served_by):
    served = []

    def app(name):
        async def serve(scope, receive, send):
            served.append(name)

        return serve

    await Call(method, path).to(DataPath(app("lambda"), app("url"), app("fallback")))
    assert served == [served_by]
