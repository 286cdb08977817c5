"""The lanes that seem to have work, each with its pump."""

import asyncio
from collections.abc import Callable, Sequence

from kappa_core.event import Kind, Lane
from kappa_gateway.events.pump import Pump
from kappa_gateway.pods.functions import Functions
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.queue.protocol import EventLease


class Lanes:
    """`make_pump` makes one for a lane. `namespaces`: those that this gateway serves; empty: all."""

    def __init__(self, functions: Functions, make_pump: Callable[[Lane], Pump], *, namespaces: Sequence[str]) -> None:
        self._functions = functions
        self._make_pump = make_pump
        self._namespaces = frozenset(namespaces)
        self._pumps: dict[Lane, Pump] = {}
        self._tasks: dict[Pump, asyncio.Task[None]] = {}
        self._stopping = False

    def serves(self, lane: Lane) -> bool:
        """Whether it is this gateway's at all: others may share the queue."""
        return not self._namespaces or lane.namespace in self._namespaces

    def notify(self, lane: Lane, *, abandoned: bool = False) -> None:
        """The lane may have something to receive. `abandoned`: see `Pump.notify`."""
        if not self._stopping and self.serves(lane) and self._functions.synced.is_set():
            self._pump(lane).notify(abandoned=abandoned)

    def function_changed(self, function: FunctionState) -> None:
        pump = self._pumps.get(Lane(Kind.INVOCATION, function.namespace, function.name))
        if pump is not None:
            pump.function_changed(function)

    def stop(self) -> None:
        """Receive nothing more, and return what waits for a slot."""
        self._stopping = True
        for pump in list(self._pumps.values()):
            pump.stop()

    # -- what is held

    def __len__(self) -> int:
        return len(self._pumps)

    def held(self, lane: Lane) -> int:
        """How many events of the lane this gateway holds."""
        pump = self._pumps.get(lane)
        return len(pump.held) if pump is not None else 0

    def leases(self) -> list[EventLease]:
        return [run.lease for pump in self._pumps.values() for run in pump.held]

    def tasks(self) -> list[asyncio.Task[None]]:
        """Of all pumps, and of all events that are held."""
        return list(self._tasks.values()) + [task for pump in self._pumps.values() for task in pump.held.values()]

    # -- inside

    def _pump(self, lane: Lane) -> Pump:
        """The lane's pump; a new one where the last one has ended."""
        pump = self._pumps.get(lane)
        if pump is None or (pump.ended and not pump.held):
            pump = self._pumps[lane] = self._make_pump(lane)
            task = asyncio.get_running_loop().create_task(pump.run(), name=f"pump {lane}")
            self._tasks[pump] = task
            task.add_done_callback(lambda _: self._ended(pump))
        return pump

    def _ended(self, pump: Pump) -> None:
        del self._tasks[pump]
        # what is held when the gateway stops is still found through its pump
        if not pump.held and self._pumps.get(pump.lane) is pump:
            del self._pumps[pump.lane]
