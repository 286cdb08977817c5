"""Waiting for a condition, never for a time: `await eventually(…)` on an event loop, `eventually_sync(…)` without one.

Both call `condition` repeatedly until it returns a true value, and return that value. An `AssertionError` that it
raises means "not yet". After `within` seconds the test fails with an `AssertionError` that names `what` and the last
problem.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

T = TypeVar("T")

WITHIN = 30.0
"""Seconds: far longer than any condition takes on a busy machine. A test that asserts a duration passes its own."""


async def eventually(
    condition: Callable[[], T | Awaitable[T]], what: str = "", *, within: float = WITHIN, every: float = 0.005
) -> T:
    """`condition` may be a coroutine function; it is called every `every` seconds."""
    deadline = time.monotonic() + within
    while True:
        problem = None
        try:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return cast(T, value)
        except AssertionError as error:
            problem = error
        if time.monotonic() > deadline:
            raise _too_late(condition, what, within, problem) from problem
        await asyncio.sleep(every)


def eventually_sync(condition: Callable[[], T], what: str = "", *, within: float = WITHIN, every: float = 0.05) -> T:
    """The same for a plain function, blocking the caller's thread."""
    deadline = time.monotonic() + within
    while True:
        problem = None
        try:
            if value := condition():
                return value
        except AssertionError as error:
            problem = error
        if time.monotonic() > deadline:
            raise _too_late(condition, what, within, problem) from problem
        time.sleep(every)


def _too_late(condition: object, what: str, within: float, problem: AssertionError | None) -> AssertionError:
    name = what or getattr(condition, "__qualname__", repr(condition))
    return AssertionError(f"not seen within {within:g} s: {name}" + (f": {problem}" if problem else ""))
