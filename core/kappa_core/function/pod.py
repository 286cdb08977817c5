"""Settings of a Function's pods, in Kubernetes' own fields."""

from typing import ClassVar, Final

from pydantic import Field

from kappa_core.function.base import KubernetesObject, ObjectName, Rule, SpecModel, StringMap

RESERVED_LABELS: Final = ("kappa.run/", "app.kubernetes.io/")


class PodTemplate(SpecModel):
    """Settings of the function's pods, in Kubernetes' own fields."""

    labels: StringMap = Field(default={}, description="Additional labels for the pods. Default: none.")
    annotations: StringMap = Field(default={}, description="Additional annotations for the pods. Default: none.")
    node_selector: StringMap = Field(default={}, description="Labels that a node must have. Default: any node.")
    tolerations: list[KubernetesObject] = Field(
        default=[], max_length=100, description="Taints that the pods tolerate, as in a Pod. Default: none."
    )
    affinity: KubernetesObject | None = Field(default=None, description="Scheduling rules, as in a Pod. Default: none.")
    topology_spread_constraints: list[KubernetesObject] = Field(
        default=[],
        max_length=20,
        description="How the pods spread over zones and nodes, as in a Pod. Default: the cluster's.",
    )
    volumes: list[KubernetesObject] = Field(
        default=[], max_length=100, description="Volumes, as in a Pod. Default: none."
    )
    volume_mounts: list[KubernetesObject] = Field(
        default=[],
        max_length=100,
        description="Where they are mounted in the function's container, as in a Pod. Default: none.",
    )
    security_context: KubernetesObject | None = Field(
        default=None, description="The pod's securityContext. Default: non-root, RuntimeDefault seccomp."
    )
    container_security_context: KubernetesObject | None = Field(
        default=None, description="The container's securityContext. Default: no capabilities, no privilege escalation."
    )
    image_pull_secrets: list[KubernetesObject] = Field(
        default=[], max_length=20, description="Secrets for pulling images, as in a Pod. Default: none."
    )
    runtime_class_name: ObjectName | None = Field(
        default=None, description="A RuntimeClass, such as gvisor. Default: the cluster's."
    )
    priority_class_name: ObjectName | None = Field(default=None, description="A PriorityClass. Default: the cluster's.")

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"!has(self.labels) || self.labels.all(k, !{list(RESERVED_LABELS)}.exists(p, k.startsWith(p)))",
            holds=lambda self: not any(key.startswith(RESERVED_LABELS) for key in self.labels),
            message="labels under kappa.run/ and app.kubernetes.io/ are Kappa's own; choose another prefix",
            field="labels",
        ),
    )
