"""Which function a request names."""

from collections.abc import Callable

from kappa_core.errors import FunctionNotFound, Unavailable
from kappa_core.function_name import FunctionName
from kappa_core.names import function_key
from kappa_gateway.edge.target import Target
from kappa_gateway.pods.functions import Functions
from kappa_gateway.pods.state import FunctionState


class Lookup:
    """`count_refusal` is called with the error type of a request that belongs to no function."""

    def __init__(self, functions: Functions, count_refusal: Callable[[str], None]) -> None:
        self.count_refusal = count_refusal
        self._functions = functions

    @property
    def version(self) -> int:
        """Changes whenever a name may mean something else."""
        return self._functions.version

    def by_name(self, name: FunctionName) -> FunctionState:
        """Raises `FunctionNotFound`, `Unavailable`."""
        function = self._functions.get(name.namespace, name.name)
        if function is not None:
            return function
        self._check_synced()
        raise FunctionNotFound(
            f"Function not found: there is no Function {name.name!r} in namespace {name.namespace!r}"
        )

    def by_url(self, target: Target) -> FunctionState:
        """Raises `FunctionNotFound`, `Unavailable`."""
        function = self._functions.get(target.namespace, target.name)
        if function is not None:
            return function
        self._check_synced()
        self.count_refusal(FunctionNotFound.error_type)
        key = function_key(target.namespace, target.name)
        raise FunctionNotFound(
            f"Function not found: there is no Function {key} (a function URL is /fn/NAMESPACE/NAME/)"
        )

    def _check_synced(self) -> None:
        if not self._functions.synced.is_set():
            raise Unavailable("this gateway has not yet seen every function: try again in a moment")
