"""What a function is and how it runs."""

import re
from decimal import Decimal
from typing import ClassVar, Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kappa_core.durations import parse_duration, parse_quantity
from kappa_core.function.async_invocation import AsyncInvocation
from kappa_core.function.base import DNS_SUBDOMAIN, Duration, Quantity, Rule, SpecModel, list_map
from kappa_core.function.code import Code
from kappa_core.function.env import EnvFromSource, EnvVar
from kappa_core.function.pod import PodTemplate

MAX_TIMEOUT: Final = "1h"
MIN_MEMORY: Final = "32Mi"
MODULE_FUNCTION: Final = r"^[A-Za-z_][A-Za-z0-9_-]*([./][A-Za-z0-9_][A-Za-z0-9_-]*)*\.[A-Za-z_][A-Za-z0-9_]*$"
"""Python's handlers. Other runtimes have other forms, such as `Package::method`."""


class Scaling(SpecModel):
    """How many pods run."""

    min_replicas: int = Field(
        default=0, ge=0, le=1000, description="The pods that run even without work. Default: 0, scale to zero."
    )
    max_replicas: int = Field(
        default=10, ge=0, le=1000, description="The most pods that run. 0 refuses every invocation. Default: 10."
    )
    keep_warm: Duration = Field(
        default="5m",
        description="How long a pod stays after it was last needed, as a duration such as 30s, 5m or 1h, at most 24h. "
        "0s removes it at once. Default: 5m.",
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.minReplicas <= self.maxReplicas",
            holds=lambda self: self.min_replicas <= self.max_replicas,
            message="must not be above maxReplicas",
            field="minReplicas",
        ),
        Rule(
            cel="duration(self.keepWarm) <= duration('24h')",
            holds=lambda self: self.keep_warm_seconds <= 86400,
            message="must be at most 24h",
            field="keepWarm",
        ),
    )

    @property
    def keep_warm_seconds(self) -> float:
        return parse_duration(self.keep_warm)


class FunctionSpec(SpecModel):
    """What the function is and how it runs."""

    runtime: str | None = Field(
        default=None,
        pattern=r"^[a-z][a-z0-9.-]*$",
        max_length=63,
        description="The language runtime, such as python3.13. Required unless code.image is set: then the image is "
        "the runtime.",
    )
    handler: str | None = Field(
        default=None,
        pattern=r"^[!-~]+$",
        max_length=128,
        description="The function to call, as in Lambda: module.function, such as main.handler. Required unless "
        "code.image is set.",
    )
    code: Code = Field(description="Where the code is: exactly one of inline, configMap, archive and image.")
    env: list[EnvVar] = Field(
        default=[],
        max_length=500,
        description="Environment variables, as in a Pod. Default: none.",
        json_schema_extra=list_map("name"),
    )
    env_from: list[EnvFromSource] = Field(
        default=[],
        max_length=50,
        description="Secrets and ConfigMaps whose keys become variables, as in a Pod. Default: none.",
    )
    memory: Quantity = Field(
        default="128Mi",
        description="Memory request and limit of the function's container, as a quantity such as 128Mi or 1Gi, at "
        "least 32Mi. Default: 128Mi.",
    )
    cpu: Quantity | None = Field(
        default=None, description="CPU request and limit, as a quantity such as 250m or 1. Default: no limit."
    )
    timeout: Duration = Field(
        default="30s",
        description="How long an invocation may run, as a duration between 100ms and 1h; then its process is killed. "
        "Default: 30s.",
    )
    concurrency: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Invocations that one pod runs at the same time. Default: 1, as in Lambda.",
    )
    scaling: Scaling = Field(default=Scaling(), description="How many pods run, and how long they stay.")
    async_: AsyncInvocation = Field(
        default=AsyncInvocation(),
        alias="async",
        description="How events (asynchronous invocations) are retried, and where their outcome goes.",
    )
    service_account_name: str = Field(
        default="",
        pattern=DNS_SUBDOMAIN.replace("^", "^(").replace("$", ")?$"),
        max_length=253,
        description="The ServiceAccount whose token the pods get. Default: none, so no token is mounted (which is "
        "safer, and makes cold starts faster).",
    )
    pod_template: PodTemplate = Field(
        default=PodTemplate(), description="Settings of the pods: scheduling, volumes, security."
    )

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.code.image) || has(self.runtime)",
            holds=lambda self: self.code.image is not None or self.runtime is not None,
            message="needed with inline, configMap and archive code, such as python3.13",
            field="runtime",
        ),
        Rule(
            cel="!has(self.code.image) || !has(self.runtime)",
            holds=lambda self: self.code.image is None or self.runtime is None,
            message="not allowed with code.image (the image is the runtime)",
            field="runtime",
        ),
        Rule(
            cel="has(self.code.image) || has(self.handler)",
            holds=lambda self: self.code.image is not None or self.handler is not None,
            message="needed unless code.image is set; write module.function, such as main.handler",
            field="handler",
        ),
        Rule(
            cel="!has(self.handler)"
            " || !(has(self.code.inline) || has(self.runtime) && self.runtime.startsWith('python'))"
            f" || self.handler.matches(r'{MODULE_FUNCTION}')",
            holds=lambda self: (
                self.handler is None
                or not (self.code.inline or (self.runtime or "").startswith("python"))
                or re.search(MODULE_FUNCTION, self.handler) is not None
            ),
            message="must be module.function, such as main.handler, with inline code and with Python",
            field="handler",
        ),
        Rule(
            cel=f"duration(self.timeout) >= duration('100ms') && duration(self.timeout) <= duration('{MAX_TIMEOUT}')",
            holds=lambda self: 0.1 <= self.timeout_seconds <= parse_duration(MAX_TIMEOUT),
            message=f"must be between 100ms and {MAX_TIMEOUT}",
            field="timeout",
        ),
        Rule(
            cel="!has(self.code.image) || self.code.image.protocol != 'lambda' || self.concurrency == 1",
            holds=lambda self: self.code.image is None or self.code.image.protocol != "lambda" or self.concurrency == 1,
            message="must be 1 with a lambda image (one runtime process runs in it)",
            field="concurrency",
        ),
        Rule(
            cel=f"quantity(string(self.memory)).compareTo(quantity('{MIN_MEMORY}')) >= 0",
            holds=lambda self: parse_quantity(self.memory) >= parse_quantity(MIN_MEMORY),
            message=f"must be at least {MIN_MEMORY} (the agent and an idle runtime process need that much);"
            " a number without a suffix is bytes",
            field="memory",
        ),
        Rule(
            cel="!has(self.cpu) || quantity(string(self.cpu)).compareTo(quantity('1m')) >= 0",
            holds=lambda self: self.cpu is None or parse_quantity(self.cpu) >= Decimal("0.001"),
            message="must be at least 1m",
            field="cpu",
        ),
    )

    @model_validator(mode="after")
    def _each_variable_once(self) -> Self:
        # The API server checks this itself, as env is a list map.
        seen: set[str] = set()
        for variable in self.env:
            if variable.name in seen:
                message = f"{variable.name} is set twice"
                raise PydanticCustomError(
                    "value_error", "{text}", {"text": f"env: {message}", "broken": [("env", message)]}
                )
            seen.add(variable.name)
        return self

    @property
    def timeout_seconds(self) -> float:
        return parse_duration(self.timeout)

    @property
    def protocol(self) -> Literal["lambda", "http"]:
        return self.code.image.protocol if self.code.image else "lambda"
