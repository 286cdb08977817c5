"""The Function: the pydantic model that is the one source of the CRD, of defaults and of validation outside a cluster.

`Function.model_validate(manifest)` reads a manifest as `kubectl apply` takes it. Every field's description becomes what
`kubectl explain` prints, so it says what the field does, its unit and its default. Rules that compare fields are CEL
(`x-kubernetes-validations`) on the class that holds the fields, in `CEL_RULES`, and are checked here by the validators
beside them, with the same message.
"""

from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from kappa_core import names
from kappa_core.durations import DURATION_PATTERN, QUANTITY_PATTERN, mebibytes, parse_duration

INLINE_MAX_CHARS: Final = 30_000
"""Inline code travels in an environment variable of the pod, of which Linux takes 128 KiB: 4 bytes a character at worst."""
MAX_TIMEOUT: Final = "1h"

Duration = Annotated[str, StringConstraints(pattern=DURATION_PATTERN, max_length=32)]
Quantity = Annotated[str, StringConstraints(pattern=QUANTITY_PATTERN, max_length=32)]
KubernetesObject = dict[str, Any]
"""A part of Kubernetes' own API that is passed on as it is (`x-kubernetes-preserve-unknown-fields`)."""


class CelRule(BaseModel):
    """A rule for `x-kubernetes-validations`."""

    rule: str
    message: str
    field_path: str | None = None
    """The field to blame, such as `.timeout`; None: the object that the rule stands at."""

    def to_kubernetes(self) -> dict[str, str]:
        """The rule as the CRD holds it."""
        rule = {"rule": self.rule, "message": self.message}
        return rule | {"fieldPath": self.field_path} if self.field_path else rule


class ApiModel(BaseModel):
    """camelCase in manifests, snake_case in Python; a field that is not known is an error."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)
    CEL_RULES: ClassVar[tuple[CelRule, ...]] = ()


class KeySelector(ApiModel):
    """A key of a Secret or ConfigMap in the Function's namespace."""

    name: str = Field(min_length=1, max_length=253, description="Name of the Secret or ConfigMap.")
    key: str = Field(min_length=1, max_length=253, description="Key in it.")
    optional: bool = Field(default=False, description="Whether the pod starts without it. Default: false.")


class FieldSelector(ApiModel):
    """A field of the pod."""

    field_path: str = Field(min_length=1, description="The field, such as status.podIP or metadata.namespace.")
    api_version: str = Field(default="v1", description="The schema that fieldPath is written in. Default: v1.")


class ResourceSelector(ApiModel):
    """A resource limit or request of the container."""

    resource: str = Field(min_length=1, description="The resource, such as limits.memory.")
    container_name: str | None = Field(default=None, description="The container; absent: the function's own.")
    divisor: Quantity | None = Field(default=None, description="The unit of the value, such as 1Mi. Default: 1.")


class EnvVarSource(ApiModel):
    """Where a variable's value comes from: exactly one of the fields."""

    secret_key_ref: KeySelector | None = Field(default=None, description="A key of a Secret.")
    config_map_key_ref: KeySelector | None = Field(default=None, description="A key of a ConfigMap.")
    field_ref: FieldSelector | None = Field(default=None, description="A field of the pod.")
    resource_field_ref: ResourceSelector | None = Field(default=None, description="A resource of the container.")

    CEL_RULES: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            rule="[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef), has(self.resourceFieldRef)]"
            ".filter(x, x).size() == 1",
            message="valueFrom: set exactly one of secretKeyRef, configMapKeyRef, fieldRef and resourceFieldRef",
        ),
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [self.secret_key_ref, self.config_map_key_ref, self.field_ref, self.resource_field_ref]
        if sum(source is not None for source in given) != 1:
            raise ValueError(self.CEL_RULES[0].message)
        return self


class EnvVar(ApiModel):
    """An environment variable, as in a Pod."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=253, description="The variable's name.")
    value: str | None = Field(
        default=None,
        max_length=32768,
        description="Its value. $(OTHER) refers to a variable defined before it; $$ is a dollar sign.",
    )
    value_from: EnvVarSource | None = Field(
        default=None, description="Where its value comes from instead: a Secret, a ConfigMap or the pod itself."
    )

    CEL_RULES: ClassVar[tuple[CelRule, ...]] = (
        CelRule(rule="!(has(self.value) && has(self.valueFrom))", message="env: set value or valueFrom, not both"),
        CelRule(
            rule="!self.name.startsWith('AWS_LAMBDA_') && !self.name.startsWith('KAPPA_') && !(self.name in ['_HANDLER', 'LAMBDA_TASK_ROOT', 'LAMBDA_RUNTIME_DIR'])",
            message="env: AWS_LAMBDA_*, KAPPA_*, _HANDLER, LAMBDA_TASK_ROOT and LAMBDA_RUNTIME_DIR are set by the runtime",
        ),
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.value is not None and self.value_from is not None:
            raise ValueError(self.CEL_RULES[0].message)
        if self.name.startswith(("AWS_LAMBDA_", "KAPPA_")) or self.name in {
            "_HANDLER",
            "LAMBDA_TASK_ROOT",
            "LAMBDA_RUNTIME_DIR",
        }:
            raise ValueError(self.CEL_RULES[1].message)
        return self


class ObjectReference(ApiModel):
    """A Secret or ConfigMap by name."""

    name: str = Field(min_length=1, max_length=253, description="Its name, in the Function's namespace.")
    optional: bool = Field(default=False, description="Whether the pod starts without it. Default: false.")


class EnvFromSource(ApiModel):
    """Every key of a Secret or ConfigMap as a variable: exactly one of the two."""

    prefix: str | None = Field(default=None, max_length=253, description="Put before each key.")
    secret_ref: ObjectReference | None = Field(default=None, description="A Secret.")
    config_map_ref: ObjectReference | None = Field(default=None, description="A ConfigMap.")

    CEL_RULES: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            rule="has(self.secretRef) != has(self.configMapRef)",
            message="envFrom: set exactly one of secretRef and configMapRef",
        ),
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.secret_ref is None) == (self.config_map_ref is None):
            raise ValueError(self.CEL_RULES[0].message)
        return self


class ConfigMapCode(ApiModel):
    """Code in a ConfigMap: every key is a file in the task root."""

    name: str = Field(
        min_length=1,
        max_length=253,
        description="The ConfigMap, in the Function's namespace. A change of its data rolls the pods.",
    )


class ArchiveCode(ApiModel):
    """Code in a zip file, fetched when a pod starts."""

    url: str = Field(
        pattern=r"^(https?|s3)://[^\s]+$",
        max_length=2048,
        description="Where the zip is: an http(s):// or s3:// URL. For s3 the credentials come from the function's environment, as in the AWS SDKs.",
    )
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="The zip's SHA-256 in hex. An archive with another hash is refused; a new hash rolls the pods.",
    )


class ImageCode(ApiModel):
    """A container image that holds the function."""

    ref: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[^\s]+$",
        description="The image, such as registry.example.com/team/hello:1.2.",
    )
    protocol: Literal["lambda", "http"] = Field(
        default="lambda",
        description="How the image is called. lambda: it runs a Lambda runtime client (Lambda's own images do). http: it is a web server on `port`. Default: lambda.",
    )
    port: int = Field(
        default=8080,
        ge=1,
        le=65535,
        description="With protocol http: the port that the server listens on. Default: 8080.",
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None,
        description="Kubernetes' imagePullPolicy. Default: Kubernetes' own (Always for :latest, else IfNotPresent).",
    )
    command: list[str] | None = Field(default=None, description="Instead of the image's ENTRYPOINT.")
    args: list[str] | None = Field(
        default=None, description="Instead of the image's CMD. For Lambda's images: the handler."
    )


class Code(ApiModel):
    """Where the code is: exactly one of the fields."""

    inline: str | None = Field(
        default=None,
        min_length=1,
        max_length=INLINE_MAX_CHARS,
        description="The source itself, at most 30,000 characters; saved as the handler's module (main.py for the handler main.handler).",
    )
    config_map: ConfigMapCode | None = Field(default=None, description="A ConfigMap whose keys are the files.")
    archive: ArchiveCode | None = Field(default=None, description="A zip file, by URL and hash.")
    image: ImageCode | None = Field(default=None, description="A container image.")

    CEL_RULES: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            rule="[has(self.inline), has(self.configMap), has(self.archive), has(self.image)].filter(x, x).size() == 1",
            message="code: set exactly one of inline, configMap, archive and image",
        ),
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.inline, self.config_map, self.archive, self.image)) != 1:
            raise ValueError(self.CEL_RULES[0].message)
        return self


class Scaling(ApiModel):
    """How many pods run."""

    min_replicas: int = Field(
        default=0, ge=0, le=1000, description="Pods that run even without work. Default: 0, scale to zero."
    )
    max_replicas: int = Field(
        default=10, ge=0, le=1000, description="The most pods that run. 0 refuses every invocation. Default: 10."
    )
    keep_warm: Duration = Field(
        default="5m",
        description="How long a pod that is not needed is kept for the next invocation, as a duration such as 30s, 5m or 1h. 0s removes it at once. Default: 5m.",
    )

    CEL_RULES: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            rule="self.minReplicas <= self.maxReplicas", message="scaling: minReplicas must not be above maxReplicas"
        ),
        CelRule(rule="duration(self.keepWarm) <= duration('24h')", message="scaling: keepWarm must be at most 24h"),
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(self.CEL_RULES[0].message)
        if parse_duration(self.keep_warm) > 86400:
            raise ValueError(self.CEL_RULES[1].message)
        return self

    @property
    def keep_warm_seconds(self) -> float:
        return parse_duration(self.keep_warm)


class PodTemplate(ApiModel):
    """What the function's pods need of Kubernetes, in Kubernetes' own fields."""

    labels: dict[str, str] = Field(default_factory=dict, description="More labels for the pods.")
    annotations: dict[str, str] = Field(default_factory=dict, description="More annotations for the pods.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels that a node must have.")
    tolerations: list[KubernetesObject] = Field(
        default_factory=list, description="Taints that the pods tolerate, as in a Pod."
    )
    affinity: KubernetesObject | None = Field(default=None, description="Scheduling rules, as in a Pod.")
    topology_spread_constraints: list[KubernetesObject] = Field(
        default_factory=list, description="How the pods spread over zones and nodes, as in a Pod."
    )
    volumes: list[KubernetesObject] = Field(default_factory=list, description="Volumes, as in a Pod.")
    volume_mounts: list[KubernetesObject] = Field(
        default_factory=list, description="Where the function sees them, as in a container."
    )
    security_context: KubernetesObject | None = Field(
        default=None, description="The pod's securityContext. Default: non-root, RuntimeDefault seccomp."
    )
    container_security_context: KubernetesObject | None = Field(
        default=None, description="The container's securityContext. Default: no capabilities, no privilege escalation."
    )
    image_pull_secrets: list[KubernetesObject] = Field(
        default_factory=list, description="Secrets for pulling images, as in a Pod."
    )
    runtime_class_name: str | None = Field(default=None, max_length=253, description="A RuntimeClass, such as gvisor.")
    priority_class_name: str | None = Field(default=None, max_length=253, description="A PriorityClass.")

    CEL_RULES: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            rule="!has(self.labels) || self.labels.all(k, !k.startsWith('kappa.run/') && !k.startsWith('app.kubernetes.io/'))",
            message="podTemplate: labels under kappa.run/ and app.kubernetes.io/ are Kappa's own",
        ),
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if any(key.startswith((f"{names.GROUP}/", "app.kubernetes.io/")) for key in self.labels):
            raise ValueError(self.CEL_RULES[0].message)
        return self


class AsyncInvocation(ApiModel):
    """How events (invocations of type Event) are retried."""

    max_attempts: int = Field(default=3, ge=1, le=10, description="How often an event is tried in all. Default: 3.")
    max_age: Duration = Field(
        default="6h", description="How long an event may wait and be retried, 1m to 6h. Default: 6h."
    )

    CEL_RULES: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            rule="duration(self.maxAge) >= duration('60s') && duration(self.maxAge) <= duration('6h')",
            message="async: maxAge must be between 60s and 6h",
        ),
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if not 60 <= parse_duration(self.max_age) <= 6 * 3600:
            raise ValueError(self.CEL_RULES[0].message)
        return self


class FunctionSpec(ApiModel):
    """What the function is and how it runs."""

    runtime: str | None = Field(
        default=None,
        pattern=r"^[a-z][a-z0-9.-]*$",
        max_length=63,
        description="The language runtime, such as python3.13. Absent when code.image is set.",
    )
    handler: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_./-]*\.[A-Za-z_][A-Za-z0-9_]*$",
        max_length=128,
        description="What is called, as in Lambda: module.function. Needed unless code.image is set.",
    )
    code: Code = Field(description="Where the code is: exactly one of inline, configMap, archive and image.")
    env: list[EnvVar] = Field(default_factory=list, max_length=500, description="Environment variables, as in a Pod.")
    env_from: list[EnvFromSource] = Field(
        default_factory=list,
        max_length=50,
        description="Secrets and ConfigMaps whose keys become variables, as in a Pod.",
    )
    memory: Quantity = Field(
        default="128Mi",
        description="Memory request and limit of the function's container, as a quantity such as 128Mi or 1Gi. Default: 128Mi.",
    )
    cpu: Quantity | None = Field(
        default=None, description="CPU request and limit, as a quantity such as 250m or 1. Default: no limit."
    )
    timeout: Duration = Field(
        default="30s",
        description="How long an invocation may run, as a duration between 100ms and 1h; then its process is killed. Default: 30s.",
    )
    concurrency: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Invocations that one pod runs at the same time. Default: 1, as in Lambda.",
    )
    scaling: Scaling = Field(default=Scaling(), description="How many pods run, and for how long.")
    async_: AsyncInvocation = Field(
        default=AsyncInvocation(), alias="async", description="How events (asynchronous invocations) are retried."
    )
    service_account_name: str = Field(
        default="",
        max_length=253,
        description="The ServiceAccount whose token the pods get. Default: none, and no token is mounted (safer, and faster from cold).",
    )
    pod_template: PodTemplate = Field(
        default_factory=PodTemplate, description="What the pods need of Kubernetes: scheduling, volumes, security."
    )

    CEL_RULES: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            rule="has(self.code.image) ? !has(self.runtime) : has(self.runtime)",
            message="runtime: needed with inline, configMap and archive code, and not allowed with code.image (the image is the runtime)",
        ),
        CelRule(
            rule="has(self.code.image) || has(self.handler)",
            message="handler: needed unless code.image is set; write module.function, such as main.handler",
        ),
        CelRule(
            rule="duration(self.timeout) >= duration('100ms') && duration(self.timeout) <= duration('1h')",
            message="timeout: must be between 100ms and 1h",
        ),
        CelRule(
            rule="!has(self.code.image) || self.code.image.protocol != 'lambda' || self.concurrency == 1",
            message="concurrency: must be 1 with a lambda image (one runtime process runs in it)",
        ),
        CelRule(
            rule="quantity(self.memory).compareTo(quantity('32Mi')) >= 0",
            message="memory: must be at least 32Mi (the agent and an idle runtime process need that much)",
        ),
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        image = self.code.image
        if (image is None) != (self.runtime is not None):
            raise ValueError(self.CEL_RULES[0].message)
        if image is None and self.handler is None:
            raise ValueError(self.CEL_RULES[1].message)
        if not 0.1 <= self.timeout_seconds <= parse_duration(MAX_TIMEOUT):
            raise ValueError(self.CEL_RULES[2].message)
        if image is not None and image.protocol == "lambda" and self.concurrency != 1:
            raise ValueError(self.CEL_RULES[3].message)
        if mebibytes(self.memory) < 32:
            raise ValueError(self.CEL_RULES[4].message)
        return self

    @property
    def timeout_seconds(self) -> float:
        return parse_duration(self.timeout)

    @property
    def protocol(self) -> Literal["lambda", "http"]:
        return self.code.image.protocol if self.code.image else "lambda"


class Condition(ApiModel):
    """Kubernetes' metav1.Condition."""

    type: str = Field(description="What this is about: Ready, CodeAvailable or Progressing.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    observed_generation: int | None = Field(
        default=None, description="The generation of the Function that this was seen for."
    )
    last_transition_time: str = Field(description="When status last changed, RFC 3339.")
    reason: str = Field(description="Why, in one word for programs.")
    message: str = Field(description="Why, for people, with how to mend it.")


class ColdStart(ApiModel):
    """How a cold start of this Function goes."""

    path: Literal["Pool", "Deployment"] = Field(
        description="Pool: a warm pod is given the code. Deployment: a pod is started."
    )
    reason: str = Field(description="Why this path.")


class FunctionStatus(ApiModel):
    """What the operator sees."""

    model_config = ConfigDict(extra="ignore")

    observed_generation: int | None = Field(
        default=None, description="The generation of the spec that this status is about."
    )
    conditions: list[Condition] = Field(default_factory=list, description="Ready, CodeAvailable and Progressing.")
    replicas: int = Field(default=0, description="Pods that exist now.")
    ready_replicas: int = Field(default=0, description="Pods that are ready now.")
    url: str | None = Field(default=None, description="The function's URL.")
    cold_start: ColdStart | None = Field(default=None, description="How a cold start of this Function goes, and why.")
    verified_revision: str | None = Field(
        default=None, description="The hash of the last pod template that was seen to start."
    )


class ObjectMeta(BaseModel):
    """The part of metav1.ObjectMeta that Kappa reads."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, populate_by_name=True, frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Function(BaseModel):
    """A Function, as a manifest holds it. `metadata.name` is a DNS label, 63 characters at most."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, alias_generator=to_camel, frozen=True)

    api_version: Literal["kappa.run/v1alpha1"] = "kappa.run/v1alpha1"
    kind: Literal["Function"] = "Function"
    metadata: ObjectMeta
    spec: FunctionSpec
    status: FunctionStatus = Field(default_factory=FunctionStatus)

    CEL_RULES: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            rule="self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            message="metadata.name: lower-case letters, digits and dashes, 63 characters at most",
        ),
    )

    @property
    def key(self) -> str:
        return names.function_key(self.metadata.namespace, self.metadata.name)

    def condition(self, condition_type: str) -> Condition | None:
        return next((condition for condition in self.status.conditions if condition.type == condition_type), None)
