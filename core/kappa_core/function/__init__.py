"""The Function: the pydantic model that is the one source of the CRD, of defaults and of validation outside a cluster.

`Function.model_validate(manifest)` reads a manifest as `kubectl apply` takes it. Every field's description becomes what
`kubectl explain` prints, so it says what the field does, its unit and its default. Rules that compare fields are `RULES`
on the class that holds the fields: CEL for the API server, with the same in Python beside it.
"""

from kappa_core.function.async_invocation import (
    AsyncInvocation,
    Destination,
    FunctionDestination,
    HttpDestination,
    NatsDestination,
)
from kappa_core.function.base import Rule
from kappa_core.function.code import INLINE_MAX_CHARS, ArchiveCode, Code, ConfigMapCode, ImageCode
from kappa_core.function.env import EnvFromSource, EnvVar, EnvVarSource
from kappa_core.function.pod import PodTemplate
from kappa_core.function.resource import Function, ObjectMeta
from kappa_core.function.spec import MAX_TIMEOUT, FunctionSpec, Scaling
from kappa_core.function.status import ColdStart, Condition, FunctionStatus

__all__ = [
    "INLINE_MAX_CHARS",
    "MAX_TIMEOUT",
    "ArchiveCode",
    "AsyncInvocation",
    "Code",
    "ColdStart",
    "Condition",
    "ConfigMapCode",
    "Destination",
    "EnvFromSource",
    "EnvVar",
    "EnvVarSource",
    "Function",
    "FunctionDestination",
    "FunctionSpec",
    "FunctionStatus",
    "HttpDestination",
    "ImageCode",
    "NatsDestination",
    "ObjectMeta",
    "PodTemplate",
    "Rule",
    "Scaling",
]
