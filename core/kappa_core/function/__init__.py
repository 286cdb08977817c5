"""The Function: the pydantic model from which the CRD, its defaults and the validation outside a cluster are made.

`Function.model_validate(manifest)` reads the manifest that `kubectl apply` accepts. `kubectl explain` prints each
field's description, so it says what the field does, its unit and its default. Rules over several fields are the `RULES`
of the class that has the fields: in CEL for the API server, and the same in Python.
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
