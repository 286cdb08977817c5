"""What can be set about a gateway: environment variables `KAPPA_GATEWAY_…`, or keyword arguments in local mode."""

import socket
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from kappa_core import names, wire


class Settings(BaseSettings):
    """Every field is the variable `KAPPA_GATEWAY_` + its name in capitals. Durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(env_prefix="KAPPA_GATEWAY_", extra="ignore", frozen=True)

    host: str = Field(default="0.0.0.0", description="Address to listen on.")  # noqa: S104 - a server in a pod
    port: int = Field(default=names.GATEWAY_PORT, ge=0, le=65535, description="Port for users; 0 takes a free one.")
    internal_port: int = Field(
        default=names.GATEWAY_INTERNAL_PORT,
        ge=-1,
        le=65535,
        description="Port of the demand stream, for the operator; 0 takes a free one, -1 serves none.",
    )
    name: str = Field(
        default_factory=socket.gethostname, description="This gateway's name in demand reports: the pod's name."
    )

    namespaces: list[str] = Field(
        default_factory=list, description="Namespaces to serve, as a JSON list; empty: all of the cluster."
    )
    default_namespace: str = Field(
        default="default", description="Namespace of a function that the Lambda API names without one."
    )
    region: str = Field(default="us-east-1", description="Region in the ARNs that functions see.")
    account: str = Field(default="000000000000", pattern=r"^[0-9]{12}$", description="Account in those ARNs.")

    max_request_bytes: int = Field(
        default=wire.MAX_REQUEST_BYTES,
        ge=1024,
        description="Largest request body; a larger one gets 413. Default: 6 MB, Lambda's limit.",
    )
    max_response_bytes: int = Field(
        default=wire.MAX_RESPONSE_BYTES, ge=1024, description="Largest answer of a function URL. Default: 6 MB."
    )
    body_memory_bytes: int = Field(
        default=128 * 1024 * 1024,
        ge=1024 * 1024,
        description="Request bodies above 64 KiB that are held at a time, all together; further ones are read later.",
    )
    head_timeout: float = Field(
        default=10.0, gt=0, description="Seconds in which a connection must send a whole request head."
    )
    body_timeout: float = Field(default=60.0, gt=0, description="Seconds in which a request body must arrive.")
    keep_alive_timeout: float = Field(
        default=75.0, gt=0, description="Seconds after which an idle connection of a client is closed."
    )
    max_connections: int = Field(
        default=20_000, ge=1, description="Client connections at a time; further ones are closed at once."
    )

    queue_limit: int = Field(
        default=1000, ge=0, description="Requests of one function that may wait for a pod; further ones get 429."
    )
    max_wait: float = Field(
        default=60.0, gt=0, description="Seconds that a request waits for a pod at most; then it gets 429."
    )
    answer_margin: float = Field(
        default=5.0,
        ge=0,
        description="Seconds on top of a function's timeout in which its pod must answer; then the caller gets 504.",
    )
    websocket_idle_timeout: float = Field(
        default=600.0, gt=0, description="Seconds without a byte in either direction after which a WebSocket is closed."
    )
    upstream_idle_timeout: float = Field(
        default=30.0, gt=0, description="Seconds after which an idle connection to a pod is closed."
    )
    connect_timeout: float = Field(default=2.0, gt=0, description="Seconds in which a pod must accept a connection.")

    trusted_proxies: int = Field(
        default=0,
        ge=0,
        description="How many proxies stand before the gateway: so many entries of X-Forwarded-For are believed.",
    )
    domain: str = Field(
        default="", description="Host name in function URL events; empty: what the request's Host header says."
    )

    drain_delay: float = Field(
        default=0.0,
        ge=0,
        description="Seconds between SIGTERM (readyz turns 503) and the moment the port closes, so that load balancers see it.",
    )
    drain_timeout: float = Field(
        default=30.0, gt=0, description="Seconds after that in which running requests may finish."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug adds one line per invocation."
    )
    log_style: Literal["json", "text"] = Field(default="json", description="How logs are written.")
