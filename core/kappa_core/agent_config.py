"""An agent's configuration: environment variables that the operator and local mode write and the agent reads.

Every variable starts with `KAPPA_`, which a Function's own `env` must not use. The agent does not pass them on to the
runtime process. Every function pod imports this module: standard library only.
"""

from __future__ import annotations

from kappa_core import names, wire

TYPE_CHECKING = False  # `typing` and `dataclasses` would cost every cold start milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from dataclasses import dataclass as record
    from typing import Any, ClassVar, Final, Self
else:

    def record(**_options):
        """Stands in for `dataclasses.dataclass`, which type checkers see; `_Config` has the methods."""
        return lambda cls: cls


PREFIX: Final = "KAPPA_"
POOL: Final = "KAPPA_POOL"
"""`1`: the agent is a pool pod's and reads a `PoolConfig`."""
PRELOAD: Final = ("json", "datetime", "decimal", "logging", "urllib.request", "http.client", "ssl")
"""Modules that a pool pod's runtime process imports by default: many functions use them, and they take little
memory."""
_KINDS: Final[dict[str, Callable[[str], Any]]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: bool(int(text)),
}


class _Config:
    """Each field is the variable `KAPPA_` + its name in capitals. A field that has its default value is left out."""

    _needed: ClassVar[str]
    """The only field without a default."""

    if not TYPE_CHECKING:

        def __init__(self, **values: Any) -> None:
            fields, needed = type(self).__annotations__, type(self)._needed
            unknown = values.keys() - fields.keys()
            if unknown or needed not in values:
                raise TypeError(
                    f"{type(self).__name__}: " + (f"unknown {sorted(unknown)}" if unknown else f"{needed} is needed")
                )
            self.__dict__.update(values)

        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(f"{type(self).__name__} is frozen: {name} cannot be set")

        def __eq__(self, other: object) -> bool:
            return type(other) is type(self) and self._values() == other._values()

        def __hash__(self) -> int:
            return hash(tuple(self._values().items()))

        def __repr__(self) -> str:
            values = ", ".join(f"{name}={value!r}" for name, value in self._values().items())
            return f"{type(self).__name__}({values})"

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).__annotations__}

    def replace(self, **changes: Any) -> Self:
        """A copy with these fields changed."""
        return type(self)(**(self._values() | changes))

    def to_env(self) -> dict[str, str]:
        """The environment variables for this configuration."""
        env = {}
        for name, value in self._values().items():
            if name == self._needed or value != getattr(type(self), name):
                env[PREFIX + name.upper()] = str(int(value)) if isinstance(value, bool) else str(value)
        return env

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Raises `ValueError` that names the variable that is missing or cannot be read."""
        values: dict[str, Any] = {}
        for name, kind in cls.__annotations__.items():
            variable = PREFIX + name.upper()
            text = env.get(variable)
            if text is None:
                continue
            try:
                values[name] = _KINDS[kind](text)
            except ValueError as error:
                raise ValueError(f"{variable}={text!r} cannot be read: {error}") from None
        if cls._needed not in values:
            raise ValueError(
                f"{PREFIX}{cls._needed.upper()} is not set: the operator or kappa local up starts the agent"
            )
        return cls(**values)


@record(frozen=True, kw_only=True)
class AgentConfig(_Config):
    """The configuration of an agent that has a Function."""

    function_name: str
    function_namespace: str = "default"
    runtime: str = ""
    """The Function's `spec.runtime`; empty for an image."""
    handler: str = ""
    memory_mib: int = 128
    timeout: float = 30.0
    """Seconds that an invocation may run."""
    concurrency: int = 1
    """The number of runtime processes; each runs one invocation at a time."""
    region: str = "us-east-1"
    account: str = "000000000000"
    code_inline: str = ""
    """Source to save as the handler's module in the task root; empty if the code is mounted or an archive."""
    code_archive_url: str = ""
    code_archive_sha256: str = ""
    code_archive_copy: str = ""
    """The URL of a gateway's copy, which is tried before the archive's own URL; empty: there is none."""
    task_root: str = names.TASK_ROOT
    host: str = "0.0.0.0"  # noqa: S104 - the gateway dials the pod's address, which the agent does not know
    port: int = names.AGENT_PORT
    """0: any free port (local mode)."""
    runtime_api_port: int = names.RUNTIME_API_PORT
    """Process i uses this port + i; 0: any free ports (local mode)."""
    sidecar: bool = False
    """The runtime process runs in another container (`image.protocol: lambda`): the agent does not start it."""
    max_request_bytes: int = wire.MAX_REQUEST_BYTES
    max_response_bytes: int = wire.MAX_RESPONSE_BYTES
    drain_timeout: float = 30.0
    """Seconds after SIGTERM in which running invocations may finish."""
    pod_name: str = ""
    announce_fd: int = -1
    """Local mode: the agent writes `{"port": N}` and a newline to this file descriptor once it listens; -1: it does
    not."""
    parent_death: bool = False
    """Local mode: the agent exits when its parent process ends, however that happens."""

    if not TYPE_CHECKING:
        _needed = "function_name"


@record(frozen=True, kw_only=True)
class PoolConfig(_Config):
    """The configuration of a pool pod's agent, which gets its Function later. Fields that `AgentConfig` has too mean
    the same."""

    pool_public_key: str
    """Ed25519, base64: verifies the gateways' signatures."""
    pod_uid: str = ""
    pod_name: str = ""
    runtime: str = ""
    pool_preload: str = ",".join(PRELOAD)
    """Modules that the runtime process imports before it has a function, separated by commas."""
    task_root: str = names.TASK_ROOT
    host: str = "0.0.0.0"  # noqa: S104 - as above
    port: int = names.AGENT_PORT
    runtime_api_port: int = names.RUNTIME_API_PORT
    announce_fd: int = -1
    parent_death: bool = False

    if not TYPE_CHECKING:
        _needed = "pool_public_key"

    def to_env(self) -> dict[str, str]:
        """The environment variables for this configuration, `KAPPA_POOL` included."""
        return {POOL: "1", **super().to_env()}

    def own(self) -> dict[str, Any]:
        """The fields of an `AgentConfig` that belong to the pod, whichever Function it gets."""
        shared = self._values().keys() & AgentConfig.__annotations__.keys()
        return {name: getattr(self, name) for name in shared}


def function_arn(config: AgentConfig) -> str:
    """The ARN that Lambda's clients see."""
    return arn(config.region, config.account, config.function_namespace, config.function_name)


def arn(region: str, account: str, namespace: str, name: str) -> str:
    """A Function's ARN. Lambda has no namespaces, so outside of `default` the name is `namespace.name`."""
    qualified = name if namespace == "default" else f"{namespace}.{name}"
    return f"arn:aws:lambda:{region}:{account}:function:{qualified}"
