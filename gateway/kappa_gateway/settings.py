"""What can be set about a gateway: environment variables `KAPPA_GATEWAY_…`, or keyword arguments in local mode."""

import socket
from typing import Literal

from pydantic import Field, SecretStr
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

    max_waiting_requests: int = Field(
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

    queue_url: str = Field(
        default="",
        pattern=r"^$|^(nats|tls)://\S+$|^sqlite:/\S+$",
        description="Queue of asynchronous invocations: nats://host:4222 (several with commas), tls://host:4222, or sqlite:/path/to/file; empty: there is none, and Event is refused.",
    )
    queue_user: str = Field(default="", description="User at the NATS server.")
    queue_password: SecretStr = Field(default=SecretStr(""), description="That user's password.")
    queue_token: SecretStr = Field(default=SecretStr(""), description="A token, instead of user and password.")
    queue_credentials_file: str = Field(default="", description="A NATS .creds file, instead of both.")
    queue_tls_ca: str = Field(default="", description="File with the certificate authorities that are trusted.")
    queue_tls_cert: str = Field(
        default="", description="File with the gateway's own certificate, where the server asks."
    )
    queue_tls_key: str = Field(default="", description="File with that certificate's key.")
    queue_prefix: str = Field(
        default="kappa",
        pattern=r"^[a-z][a-z0-9-]{0,30}$",
        description="What streams and subjects begin with, so that two installations can share a NATS server.",
    )
    queue_replicas: int = Field(
        default=1, ge=1, le=5, description="Copies of each stream in a NATS cluster: 1, 3 or 5."
    )
    queue_timeout: float = Field(
        default=5.0,
        gt=0,
        description="Seconds in which the queue must answer; then a caller gets 503, and may try again.",
    )
    queue_lease: float = Field(
        default=30.0,
        ge=0.5,
        le=60.0,
        description="Seconds after which another gateway takes over the events of one that died.",
    )
    queue_max_bytes: int = Field(
        default=0, ge=0, description="Largest queue of one function; then a caller gets 429. 0: as large as the disk."
    )
    queue_deduplication_window: float = Field(
        default=120.0,
        ge=1.0,
        le=3600.0,
        description="Seconds in which a submission with the same key is the same event.",
    )

    event_max_bytes: int = Field(
        default=1024 * 1024, ge=1024, description="Largest body of an asynchronous invocation. Default: 1 MiB."
    )
    event_retry_delays: list[float] = Field(
        default_factory=lambda: [60.0, 120.0],
        description="Seconds from a function's error to the next attempt, for each attempt, as a JSON list; the last one goes on.",
    )
    event_first_backoff: float = Field(
        default=1.0, gt=0, description="Seconds until an event is tried again that got no pod; doubles each time."
    )
    event_longest_backoff: float = Field(default=300.0, gt=0, description="The most seconds that this becomes.")
    events_in_hand: int = Field(
        default=1024, ge=1, description="Events that this gateway has in hand at most, all functions together."
    )
    result_retention: float = Field(
        default=3600.0, ge=1.0, description="Seconds that the outcome of an asynchronous invocation can be asked for."
    )
    result_max_bytes: int = Field(
        default=256 * 1024, ge=0, description="Of a longer result only the beginning is kept."
    )
    dead_letter_retention: float = Field(
        default=7 * 86400.0, ge=60.0, description="Seconds that events are kept which failed for good. Default: 7 days."
    )
    delivery_timeout: float = Field(default=10.0, gt=0, description="Seconds in which an HTTP destination must answer.")
    delivery_max_age: float = Field(
        default=6 * 3600.0, ge=1.0, description="Seconds for which a delivery to a destination is tried again."
    )
    delivery_addresses: Literal["any", "cluster", "public"] = Field(
        default="cluster",
        description="What HTTP destinations may resolve to: public addresses only, the cluster's too, or any, the gateway's own loopback included. Link-local ones, where clouds have their metadata, never.",
    )
    signing_key: SecretStr = Field(
        default=SecretStr(""),
        description="From this each namespace's key is derived that signs what goes to HTTP destinations; several with spaces while receivers change over, the newest first; empty: they are not signed.",
    )

    pool_private_key: SecretStr = Field(
        default=SecretStr(""),
        description="Ed25519 private key, 32 bytes in base64, that pool pods are made a function's with; empty: pools are not used.",
    )
    pool_private_key_file: str = Field(default="", description="File with that key, instead.")
    pool_peers_namespace: str = Field(
        default="",
        description="Namespace of this gateway's pods, who share what may be claimed; empty: this gateway is alone.",
    )
    pool_peers_selector: str = Field(
        default="app.kubernetes.io/component=gateway",
        description="Label selector of those pods, whose names are the gateways' names.",
    )
    address: str = Field(
        default="",
        description="IP address of this gateway, from which pool pods fetch large archives; empty: from where the Function says.",
    )
    code_cache_bytes: int = Field(
        default=64 * 1024 * 1024, ge=0, description="Archives that are kept for pool pods, all together; 0: none."
    )

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
    log_format: Literal["json", "text"] = Field(default="json", description="How logs are written.")

    @property
    def has_pool_key(self) -> bool:
        """Whether pools are used."""
        return bool(self.pool_private_key.get_secret_value().strip() or self.pool_private_key_file)
