"""What an agent is told when it starts: environment variables, written by the operator and the local backend, read by the agent.

Every variable starts with `KAPPA_`, which a Function's own `env` must not; the agent keeps them from the runtime process.
Imported by every function pod: standard library only.
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
        """What `AgentConfig` needs of `dataclasses.dataclass`, which type checkers see in its place."""
        return lambda cls: cls


PREFIX: Final = "KAPPA_"
POOL: Final = "KAPPA_POOL"
"""`1`: the agent starts in a pool, with a `PoolConfig`."""
PRELOAD: Final = ("json", "datetime", "decimal", "logging", "urllib.request", "http.client", "ssl")
"""What a pool's runtime process imports unless it is told otherwise: what many functions import, and little memory."""
_KINDS: Final[dict[str, Callable[[str], Any]]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: bool(int(text)),
}


class _Config:
    """Each field is the variable `KAPPA_` + its name in capitals; a field at its default is left out of the environment."""

    _needed: ClassVar[str]
    """The field that has no default."""

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
        """A copy with some fields changed."""
        return type(self)(**(self._values() | changes))

    def to_env(self) -> dict[str, str]:
        """The variables for this config."""
        env = {}
        for name, value in self._values().items():
            if name == self._needed or value != getattr(type(self), name):
                env[PREFIX + name.upper()] = str(int(value)) if isinstance(value, bool) else str(value)
        return env

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Raises `ValueError` naming the variable that is missing or cannot be read."""
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
                f"{PREFIX}{cls._needed.upper()} is not set: the agent is started by the operator or by kappa local up"
            )
        return cls(**values)


@record(frozen=True, kw_only=True)
class AgentConfig(_Config):
    """Of an agent that serves a Function."""

    function_name: str
    function_namespace: str = "default"
    runtime: str = ""
    """The Function's `runtime`; empty in a sidecar."""
    handler: str = ""
    memory_mib: int = 128
    timeout: float = 30.0
    """Seconds that an invocation may run."""
    concurrency: int = 1
    """Runtime processes, each with one invocation at a time."""
    region: str = "us-east-1"
    account: str = "000000000000"
    code_inline: str = ""
    """Source to save as the handler's module in the task root; empty where the code is mounted or an archive."""
    code_archive_url: str = ""
    code_archive_sha256: str = ""
    code_archive_copy: str = ""
    """The URL of a gateway's copy, tried before the archive's own; empty: there is none."""
    task_root: str = names.TASK_ROOT
    host: str = "0.0.0.0"  # noqa: S104 - a pod's address is not known to it, and the gateway dials it
    port: int = names.AGENT_PORT
    """0 takes a free one (local mode)."""
    runtime_api_port: int = names.RUNTIME_API_PORT
    """Process i has this + i; 0 takes free ones (local mode)."""
    sidecar: bool = False
    """The runtime process is another container's (`image.protocol: lambda`): serve it, do not start it."""
    max_request_bytes: int = wire.MAX_REQUEST_BYTES
    max_response_bytes: int = wire.MAX_RESPONSE_BYTES
    drain_timeout: float = 30.0
    """Seconds after SIGTERM in which running invocations may end."""
    pod_name: str = ""
    announce_fd: int = -1
    """Local mode: write `{"port": N}` and a newline to this file descriptor once the port listens; -1: do not."""
    parent_death: bool = False
    """Local mode: end when the parent process ends, however it ends."""

    if not TYPE_CHECKING:
        _needed = "function_name"


@record(frozen=True, kw_only=True)
class PoolConfig(_Config):
    """Of an agent in a pool, that is told later which Function it serves; the fields that both have mean the same."""

    pool_public_key: str
    """Ed25519, base64: of the gateways' signatures."""
    pod_uid: str = ""
    pod_name: str = ""
    runtime: str = ""
    pool_preload: str = ",".join(PRELOAD)
    """Modules that the runtime process imports before it waits, commas between them."""
    task_root: str = names.TASK_ROOT
    host: str = "0.0.0.0"  # noqa: S104 - as above
    port: int = names.AGENT_PORT
    runtime_api_port: int = names.RUNTIME_API_PORT
    announce_fd: int = -1
    parent_death: bool = False

    if not TYPE_CHECKING:
        _needed = "pool_public_key"

    def to_env(self) -> dict[str, str]:
        """The variables for this config, and the one that says that it is one."""
        return {POOL: "1", **super().to_env()}

    def own(self) -> dict[str, Any]:
        """The fields of an `AgentConfig` that are the pod's, whichever Function it gets."""
        shared = self._values().keys() & AgentConfig.__annotations__.keys()
        return {name: getattr(self, name) for name in shared}


def function_arn(config: AgentConfig) -> str:
    """The ARN that Lambda's clients see: the name is `namespace.name` outside the default namespace."""
    return arn(config.region, config.account, config.function_namespace, config.function_name)


def arn(region: str, account: str, namespace: str, name: str) -> str:
    """A Function's ARN; Lambda has no namespaces, so another one than `default` is a part of the name."""
    qualified = name if namespace == "default" else f"{namespace}.{name}"
    return f"arn:aws:lambda:{region}:{account}:function:{qualified}"
