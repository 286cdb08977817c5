"""The operator's settings: environment variables with the prefix `KAPPA_OPERATOR_`, each a field below in capitals."""

import os
import socket
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from kappa_core import manifests, names
from kappa_core.durations import QUANTITY_PATTERN
from kappa_core.pool import PoolSettings
from kappa_operator import pool_key

PREFIX: Final = "KAPPA_OPERATOR_"


PoolSize = Annotated[int, Field(ge=0, le=1000)]


class RuntimeSetting(BaseModel):
    """A language runtime: `{"image": "kappa/runtime-python:dev", "pullPolicy": "IfNotPresent"}`."""

    image: str = Field(min_length=1, description="The image that holds the runtime and the agent.")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, alias="pullPolicy", description="Its imagePullPolicy. Default: Kubernetes' own for its tag."
    )


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    runtimes: dict[str, RuntimeSetting] = Field(
        default_factory=dict,
        description='Runtimes that Functions may name, JSON: {"python3.13": {"image": "kappa/runtime-python:dev"}}.',
    )
    agent_image: str = Field(
        default="", description="The image of the sidecar agent for Lambda images. Default: the first runtime's."
    )
    namespaces: list[str] = Field(
        default_factory=list, description="JSON list of the namespaces to serve. Default: all of the cluster."
    )
    name: str = Field(
        default="",
        pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$",
        max_length=63,
        description="Serve only Functions whose label kappa.run/operator has this value, so that several operators can"
        " share a cluster. Default: serve those without the label.",
    )
    namespace: str = Field(default="kappa-system", description="The operator's own namespace: Lease and gateways.")
    identity: str = Field(
        default_factory=lambda: os.environ.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}",
        description="This replica's identity in the Lease. Default: the pod's name.",
    )
    gateway_url: str = Field(
        default="http://kappa-gateway.kappa-system",
        description="The URL at which users reach the gateway; status.url begins with it.",
    )
    gateways: list[str] = Field(
        default_factory=list,
        description="JSON list of base URLs of demand streams, such as http://127.0.0.1:8081, for development. "
        "Default: the gateway pods in the operator's namespace.",
    )
    region: str = Field(default="us-east-1", description="The AWS region that functions see.")
    account: str = Field(default="000000000000", description="The AWS account id in functions' ARNs.")

    pool_size: int = Field(default=0, ge=0, le=1000, description="Free pods in each pool; 0: no pools.")
    pool_runtimes: dict[str, PoolSize] = Field(
        default_factory=dict, description='Runtime → size, overrides POOL_SIZE, JSON: {"python3.13": 3}.'
    )
    pool_namespaces: dict[str, dict[str, PoolSize]] = Field(
        default_factory=dict,
        description='Namespace → runtime → size, overrides both, JSON: {"team-a": {"python3.13": 0}}.',
    )
    pool_max_size: int = Field(
        default=10, ge=1, le=1000, description="The largest size to which a burst of claims raises a pool."
    )
    pool_memory_limit: str = Field(
        default="512Mi",
        pattern=QUANTITY_PATTERN,
        description="A pool pod's memory limit; Functions with more memory do not use pools.",
    )
    pool_preload: list[str] | None = Field(
        default=None,
        description="JSON list of modules that a pool pod imports in advance. Default: the runtime image's default.",
    )
    pool_private_key: SecretStr = Field(
        default=SecretStr(""),
        description="The gateways' Ed25519 private key, 32 bytes in base64, whose public half pool pods get; empty: "
        "POOL_PUBLIC_KEY.",
    )
    pool_public_key: str = Field(
        default="",
        description="The Ed25519 public key, base64, that verifies the gateways' signatures, instead of "
        "POOL_PRIVATE_KEY; neither: no pools.",
    )

    host: str = Field(default="0.0.0.0", description="The address of the health and metrics server.")  # noqa: S104
    port: int = Field(
        default=names.OPERATOR_PORT, ge=0, le=65535, description="Its port; 0: any free one, which is logged."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The lowest level that is logged."
    )
    log_format: Literal["json", "text"] = Field(default="json", description="json, or text for a terminal.")

    workers: int = Field(default=8, ge=1, le=64, description="Functions reconciled at the same time.")
    resync_interval: float = Field(default=300.0, gt=0, description="Seconds between full re-lists.")
    verify_concurrency: int = Field(
        default=2,
        ge=0,
        le=100,
        description="How many new revisions are verified at the same time, each with one pod; 0: none.",
    )
    verify_timeout: float = Field(default=60.0, gt=0, description="Seconds that a verification may take.")

    lease_name: str = Field(default="kappa-operator", description="The Lease's name.")
    lease_duration: float = Field(
        default=10.0, gt=0, description="Seconds without a renewal after which another replica takes the Lease."
    )
    renew_deadline: float = Field(
        default=7.0, gt=0, description="Seconds without a renewal after which the leader stops leading."
    )
    retry_period: float = Field(
        default=1.5, gt=0, description="Seconds between attempts to acquire or renew the Lease."
    )

    demand_timeout: float = Field(
        default=5.0, gt=0, description="Seconds of silence after which a gateway's demand stream counts as broken."
    )

    @model_validator(mode="after")
    def _lease_times(self) -> Self:
        if not self.retry_period < self.renew_deadline < self.lease_duration:
            raise ValueError(
                f"the Lease's times must grow from RETRY_PERIOD ({self.retry_period}) over RENEW_DEADLINE"
                f" ({self.renew_deadline}) to LEASE_DURATION ({self.lease_duration})"
            )
        return self

    @property
    def function_selector(self) -> str:
        """The label selector of the Functions that this operator serves."""
        return f"{names.LABEL_OPERATOR}={self.name}" if self.name else f"!{names.LABEL_OPERATOR}"

    def platform(self) -> manifests.Platform:
        return manifests.Platform(
            runtimes={
                name: manifests.RuntimeImage(image=runtime.image, pull_policy=runtime.pull_policy)
                for name, runtime in self.runtimes.items()
            },
            agent=manifests.RuntimeImage(image=self.agent_image) if self.agent_image else None,
            region=self.region,
            account=self.account,
        )

    def pools(self) -> PoolSettings:
        return PoolSettings(
            size=self.pool_size,
            runtimes=self.pool_runtimes,
            namespaces=self.pool_namespaces,
            max_size=self.pool_max_size,
            memory_limit=self.pool_memory_limit,
            preload=None if self.pool_preload is None else tuple(self.pool_preload),
            public_key=self._public_key(),
            operator=self.name,
        )

    def _public_key(self) -> str:
        private = self.pool_private_key.get_secret_value().strip()
        if self.pool_public_key:
            if not pool_key.is_public_key(self.pool_public_key):
                raise ValueError(f"{PREFIX}POOL_PUBLIC_KEY={self.pool_public_key!r}: this is not 32 bytes in base64")
            return self.pool_public_key
        try:
            return pool_key.public_key(private) if private else ""
        except ValueError as error:
            raise ValueError(f"{PREFIX}POOL_PRIVATE_KEY: {error}") from None


def load() -> Settings:
    """The settings from the environment. Raises `ValueError` with a line for each variable that is wrong."""
    try:
        settings = Settings()
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            place, given = ".".join(map(str, problem["loc"])).upper(), problem["input"]
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{PREFIX}{place}={given!r}: {message}" if place else message)
        raise ValueError("\n".join(lines)) from None
    except SettingsError as error:
        text = str(error)
        name = text.split('"')[1].upper() if '"' in text else "?"
        raise ValueError(f"{PREFIX}{name}={os.environ.get(PREFIX + name)!r}: this is not JSON") from None
    settings.pools()
    return settings
