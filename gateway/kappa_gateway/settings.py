"""The gateway's settings: environment variables `KAPPA_GATEWAY_…`, or keyword arguments in local mode."""

import socket
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from kappa_core import names, wire


class Settings(BaseSettings):
    """Every field is the variable `KAPPA_GATEWAY_` + its name in capitals. Durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(env_prefix="KAPPA_GATEWAY_", extra="ignore", frozen=True)

    host: str = Field(default="0.0.0.0", description="Address to listen on.")  # noqa: S104 - a server in a pod
    port: int = Field(default=names.GATEWAY_PORT, ge=0, le=65535, description="Port for users; 0: any free one.")
    internal_port: int = Field(
        default=names.GATEWAY_INTERNAL_PORT,
        ge=-1,
        le=65535,
        description="Port of the demand stream, for the operator; 0: any free one; -1: none.",
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
        description="Total size of request bodies above 64 KiB in memory; further bodies are read later.",
    )
    head_timeout: float = Field(
        default=10.0, gt=0, description="Seconds in which a client must send a whole request head."
    )
    body_timeout: float = Field(default=60.0, gt=0, description="Seconds in which a request body must arrive.")
    keep_alive_timeout: float = Field(
        default=75.0, gt=0, description="Seconds after which a client's idle connection is closed."
    )
    max_connections: int = Field(
        default=20_000, ge=1, description="Client connections at a time; further ones are closed at once."
    )

    max_waiting_requests: int = Field(
        default=1000,
        ge=0,
        description="Requests of one function that may wait for a pod at a time; further ones get 429.",
    )
    max_wait: float = Field(
        default=60.0, gt=0, description="The most seconds that a request waits for a pod; then it gets 429."
    )
    answer_margin: float = Field(
        default=5.0,
        ge=0,
        description="Seconds after a function's timeout in which its pod must answer; then the caller gets 504.",
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
        description="The queue of asynchronous invocations: nats://host:4222 (several separated by commas), "
        "tls://host:4222, or sqlite:/path/to/file; empty: there is none, and Event is refused.",
    )
    queue_user: str = Field(default="", description="User name for the NATS server.")
    queue_password: SecretStr = Field(default=SecretStr(""), description="That user's password.")
    queue_token: SecretStr = Field(
        default=SecretStr(""), description="A token for the NATS server, instead of user and password."
    )
    queue_credentials_file: str = Field(
        default="", description="A NATS .creds file, instead of user and password or a token."
    )
    queue_tls_ca: str = Field(default="", description="File with the trusted certificate authorities.")
    queue_tls_cert: str = Field(
        default="", description="File with the gateway's own certificate, if the server requires one."
    )
    queue_tls_key: str = Field(default="", description="File with that certificate's key.")
    queue_prefix: str = Field(
        default="kappa",
        pattern=r"^[a-z][a-z0-9-]{0,30}$",
        description="Prefix of streams and subjects, so that two installations can share a NATS server.",
    )
    queue_replicas: int = Field(
        default=1, ge=1, le=5, description="Copies of each stream in a NATS cluster: 1, 3 or 5."
    )
    queue_timeout: float = Field(
        default=5.0,
        gt=0,
        description="Seconds in which the queue must answer; then the caller gets 503 and may try again.",
    )
    queue_lease: float = Field(
        default=30.0,
        ge=0.5,
        le=60.0,
        description="Duration of an event lease in seconds: after it another gateway receives the events of one that "
        "died.",
    )
    queue_max_bytes: int = Field(
        default=0,
        ge=0,
        description="Most bytes of one function's events in the queue; then a caller gets 429. 0: as many as the disk "
        "holds.",
    )
    queue_deduplication_window: float = Field(
        default=120.0,
        ge=1.0,
        le=3600.0,
        description="Seconds for which a submission with the same idempotency key is the same event.",
    )

    event_max_bytes: int = Field(
        default=1024 * 1024, ge=1024, description="Largest body of an asynchronous invocation. Default: 1 MiB."
    )
    event_retry_delays: list[float] = Field(
        default_factory=lambda: [60.0, 120.0],
        description="Seconds from a function error to the next attempt, as a JSON list: after the first, the second, "
        "…; the last one repeats.",
    )
    event_first_backoff: float = Field(
        default=1.0,
        gt=0,
        description="Seconds until a postponed event (which got no pod) is redelivered; doubles each time.",
    )
    event_longest_backoff: float = Field(default=300.0, gt=0, description="The most seconds that this grows to.")
    events_in_hand: int = Field(
        default=1024, ge=1, description="The most events that this gateway holds leases on, over all functions."
    )
    result_retention: float = Field(
        default=3600.0,
        ge=1.0,
        description="Seconds for which the outcome of an asynchronous invocation can be queried.",
    )
    result_max_bytes: int = Field(
        default=256 * 1024, ge=0, description="Largest result; of a longer one only the beginning is kept."
    )
    dead_letter_retention: float = Field(
        default=7 * 86400.0,
        ge=60.0,
        description="Seconds for which events that failed for good are kept. Default: 7 days.",
    )
    delivery_timeout: float = Field(default=10.0, gt=0, description="Seconds in which an HTTP destination must answer.")
    delivery_max_age: float = Field(
        default=6 * 3600.0, ge=1.0, description="Seconds for which a delivery to a destination is retried."
    )
    delivery_addresses: Literal["any", "cluster", "public"] = Field(
        default="cluster",
        description="Addresses of HTTP destinations that are allowed. public: public addresses only; cluster: the "
        "cluster's too; any: the gateway's own loopback as well. Link-local addresses, where clouds serve "
        "their metadata, are always refused.",
    )
    signing_key: SecretStr = Field(
        default=SecretStr(""),
        description="Each namespace's key for signing requests to HTTP destinations is derived from this one. Several,"
        " separated by spaces, the newest first, while receivers change over; empty: requests are not "
        "signed.",
    )

    pool_private_key: SecretStr = Field(
        default=SecretStr(""),
        description="Ed25519 private key, 32 bytes in base64, that signs the requests which give a pool pod its "
        "function; empty: pools are not used.",
    )
    pool_private_key_file: str = Field(default="", description="File with that key, instead of the key itself.")
    pool_peers_namespace: str = Field(
        default="",
        description="Namespace of the gateways' pods, which share maxReplicas; empty: this gateway is the only one.",
    )
    pool_peers_selector: str = Field(
        default="app.kubernetes.io/component=gateway",
        description="Label selector of those pods. Their names are the gateways' names.",
    )
    address: str = Field(
        default="",
        description="IP address of this gateway, from which pool pods fetch large archives; empty: they use the "
        "Function's URL.",
    )
    code_cache_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=0,
        description="Total size of the archives that are kept for pool pods; 0: none are kept.",
    )

    trusted_proxies: int = Field(
        default=0,
        ge=0,
        description="Number of proxies in front of the gateway: so many entries of X-Forwarded-For are trusted.",
    )
    domain: str = Field(
        default="", description="Host name in the payloads of function URLs; empty: the request's Host header."
    )

    drain_delay: float = Field(
        default=0.0,
        ge=0,
        description="Seconds between SIGTERM, when /readyz turns 503, and closing the port, so that load balancers "
        "notice.",
    )
    drain_timeout: float = Field(
        default=30.0, gt=0, description="Seconds after drain_delay in which running requests may finish."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="debug adds one line per invocation."
    )
    log_format: Literal["json", "text"] = Field(default="json", description="json, or text for a terminal.")

    @property
    def has_pool_key(self) -> bool:
        """Whether this gateway uses pools."""
        return bool(self.pool_private_key.get_secret_value().strip() or self.pool_private_key_file)
