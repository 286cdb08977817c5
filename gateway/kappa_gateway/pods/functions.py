"""All functions that this gateway knows, by name."""

import asyncio
from collections.abc import Iterator
from typing import Protocol

from kappa_core.function import Function
from kappa_gateway.pods.state import FunctionState


class Listener(Protocol):
    """Is notified of changes; each method must be cheap."""

    def function_changed(self, function: FunctionState) -> None:
        """It was created or changed."""

    def function_gone(self, function: FunctionState) -> None:
        """It was deleted, and no pod of it is left."""


class Functions:
    """Written by the registry, and by whoever removes a function's last pod (`discard_if_unused`)."""

    def __init__(self, *, region: str = "us-east-1", account: str = "000000000000") -> None:
        self.synced = asyncio.Event()
        """Set by the registry once functions and pods were listed."""
        self.version = 0
        """Changes whenever a name may mean something else, so that lookups can be cached."""
        self._region = region
        self._account = account
        self._functions: dict[tuple[str, str], FunctionState] = {}
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def get(self, namespace: str, name: str) -> FunctionState | None:
        """The function of that name, or None."""
        state = self._functions.get((namespace, name))
        return state if state is not None and state.manifest is not None else None

    def __iter__(self) -> Iterator[FunctionState]:
        return iter(self._functions.values())

    def __len__(self) -> int:
        return len(self._functions)

    def state(self, namespace: str, name: str) -> FunctionState:
        """The record of that name: of a function, or of one that only pods are known of yet."""
        state = self._functions.get((namespace, name))
        if state is None:
            state = self._functions[namespace, name] = FunctionState(
                namespace, name, region=self._region, account=self._account
            )
        return state

    def put(self, manifest: Function) -> FunctionState:
        """A Function was created or changed."""
        state = self.state(manifest.metadata.namespace, manifest.metadata.name)
        if state.manifest is None:
            self.version += 1
        state.apply(manifest)
        for listener in self._listeners:
            listener.function_changed(state)
        return state

    def remove(self, namespace: str, name: str) -> FunctionState | None:
        """A Function was deleted; its record stays while it has pods."""
        state = self.get(namespace, name)
        if state is not None:
            state.apply(None)
            self.version += 1
        return state

    def discard_if_unused(self, state: FunctionState) -> None:
        """Forget a function that was deleted, once it has no pod left."""
        key = (state.namespace, state.name)
        if state.manifest is None and not state.pods and self._functions.get(key) is state:
            del self._functions[key]
            for listener in self._listeners:
                listener.function_gone(state)
