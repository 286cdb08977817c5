"""The names by which the Lambda API's clients address a Function: plain, qualified, or an ARN.

| written | means |
| --- | --- |
| `hello` | `hello` in the default namespace |
| `team-a.hello` | `hello` in namespace `team-a` |
| `hello:$LATEST` | the same as `hello`; there is no other qualifier |
| `123456789012:function:team-a.hello` | a partial ARN |
| `arn:aws:lambda:eu-west-1:123456789012:function:hello` | an ARN; its region and account are ignored |

The forms are those of the Invoke API's `FunctionName`. Lambda has no namespaces, so a dot separates them from the name.
"""

import re
from dataclasses import dataclass
from typing import Final

from kappa_core.errors import FunctionNotFound, InvalidRequest

LATEST: Final = "$LATEST"
MAX_LENGTH: Final = 200
_LABEL: Final = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(
    r"(?:arn:aws[a-z-]*:lambda:[a-z0-9-]+:\d{12}:function:|\d{12}:function:|function:)?"
    rf"(?:(?P<namespace>{_LABEL})\.)?(?P<name>{_LABEL})"
    r"(?::(?P<qualifier>\$LATEST|[a-zA-Z0-9_-]{1,128}))?"
)


@dataclass(frozen=True, slots=True)
class FunctionName:
    namespace: str
    name: str


def parse(text: str, *, default_namespace: str = "default", qualifier: str | None = None) -> FunctionName:
    """Read a `FunctionName`. `qualifier` is the request's `Qualifier` parameter.

    Raises `InvalidRequest` for text that cannot be a name, `FunctionNotFound` for a version or alias (there are none).
    """
    match = _NAME.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        raise InvalidRequest(
            f"{text[:MAX_LENGTH]!r} is not a function name: write NAME, NAMESPACE.NAME or an ARN; "
            "both parts are lower-case letters, digits and dashes"
        )
    inner = match["qualifier"]
    if inner and qualifier and inner != qualifier:
        raise InvalidRequest(
            f"the function name says {inner!r} and the Qualifier parameter {qualifier!r}: give one of them"
        )
    wanted = inner or qualifier
    namespace = match["namespace"] or default_namespace
    if wanted and wanted != LATEST:
        raise FunctionNotFound(
            f"Function not found: {namespace}/{match['name']} has no version or alias {wanted!r}; only {LATEST} exists"
        )
    return FunctionName(namespace, match["name"])
