"""The parts of uvicorn's internals that `kappa_gateway.edge.http_server` and `websocket` use, so that an upgrade that
changes them fails here."""

import inspect
import re

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from kappa_gateway.edge.http_server import _Outlet


def test_the_pinned_minor_version():
    assert uvicorn.__version__.startswith("0.54.")


def test_the_protocols_constructor():
    parameters = inspect.signature(HttpToolsProtocol.__init__).parameters
    assert list(parameters) == ["self", "config", "server_state", "app_state", "_loop"]


def test_the_methods_that_are_extended_exist():
    for name in (
        "connection_made",
        "connection_lost",
        "data_received",
        "on_message_begin",
        "on_headers_complete",
        "send_400_response",
        "_unsupported_upgrade_warning",
        "handle_websocket_upgrade",
        "shutdown",
    ):
        assert callable(getattr(HttpToolsProtocol, name)), name


def test_the_attributes_that_are_read_are_set():
    protocol = inspect.getsource(HttpToolsProtocol.__init__)
    for name in (
        "self.cycle",
        "self.connections",
        "self.transport",
        "self.parser",
        "self.scope",
        "self.loop",
        "self.flow",
        "self.pipeline",
    ):
        assert name in protocol, name
    cycle = inspect.getsource(RequestResponseCycle.__init__)
    for name in (
        "disconnected",
        "more_body",
        "response_started",
        "response_complete",
        "keep_alive",
        "message_event",
        "transport",
    ):
        assert f"self.{name}" in cycle, name


def test_an_answer_uses_no_more_of_its_transport_than_the_outlet_has():
    used = re.findall(r"self\.transport\.(\w+)", inspect.getsource(RequestResponseCycle))
    assert set(used) == set(_Outlet.__slots__)


def test_an_upgrade_hands_the_head_over_as_bytes():
    source = inspect.getsource(HttpToolsProtocol.handle_websocket_upgrade)
    for step in ("config=self.config", "server_state=self.server_state", "app_state=self.app_state"):
        assert step in source
    assert (
        source.index("connection_made(self.transport)") < source.index("data_received(") < source.index("set_protocol")
    )


def test_the_servers_signal_handling_can_be_left_out():
    assert "capture_signals" in inspect.getsource(uvicorn.Server.serve)
