"""A Function's JSON → the model."""

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from kappa_core import names
from kappa_core.function import Function

logger = logging.getLogger(__name__)


class FunctionReader:
    """A table's reader. A Function that cannot be read is logged once, and stays as it was last read."""

    def __init__(self) -> None:
        self._reported: dict[tuple[str, str], str] = {}

    def __call__(self, raw: Mapping[str, Any], _seen_at: float | None, previous: Function | None, /) -> Function | None:
        metadata = raw["metadata"]
        key = (metadata["namespace"], metadata["name"])
        try:
            function = Function.from_cluster(raw)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            if self._reported.get(key) != what:
                self._reported[key] = what
                logger.warning(
                    "a Function that this gateway cannot read is %s"
                    " (the CustomResourceDefinition may be newer than the gateway, or older): %s",
                    "served as it was before" if previous else "not served",
                    what,
                    extra={"function": names.function_key(*key)},
                )
            return previous
        self._reported.pop(key, None)
        return function
