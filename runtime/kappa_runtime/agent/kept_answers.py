"""Answers to events: kept until a gateway has handled them, so that no event runs a second time.

See `kappa_core.wire.ATTEMPT` for the contract. Each attempt is one `KeptAnswer`: it runs, or has its answer. The
connections that asked for it *hold* it: the one that brought it, others that brought the same attempt again, and those
that looked for it. The next request over one of them says that the answer was handled, and it is forgotten. If they all
close before that, the answer is an *orphan*, kept for a while for a gateway that takes the event over.
"""

from __future__ import annotations

from kappa_core import wire
from kappa_runtime.agent.gateway_wire import answer_head
from kappa_runtime.imports import OrderedDict
from kappa_runtime.io.http_protocol import HttpProtocol
from kappa_runtime.io.loop import EventLoop, TimerHandle
from kappa_runtime.worker.invocation import Answer, Invocation

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    Key = tuple[str, int]
    """A request id and which of its attempts, from 1."""

MAX_BYTES: Final = 8 * 1024 * 1024
MEMORY_SHARE: Final = 16
"""They take one part in so many of the memory limit, at most."""
OVERHEAD: Final = 1024
"""Bytes that an answer counts on top of its own: what surrounds it in memory."""
LOG_PAUSE: Final = 60.0
"""Seconds between two lines about dropped answers."""


def budget(memory_mib: int) -> int:
    """Bytes that kept answers may take, of a container with this memory limit."""
    return min(MAX_BYTES, memory_mib * 1024 * 1024 // MEMORY_SHARE)


class KeptAnswer:
    """One attempt that runs or has been answered."""

    __slots__ = ("_store", "body", "head", "holders", "key", "orphaned_at", "size")

    def __init__(self, store: KeptAnswers, key: Key) -> None:
        self._store = store
        self.key = key
        self.holders: set[HttpProtocol] = set()
        """Open connections: each waits for the answer, or has it and has not been used since."""
        self.head: bytes | None = None
        """None while it runs."""
        self.body = b""
        self.size = 0
        """As it counts towards the budget; 0 while it runs."""
        self.orphaned_at = 0.0

    def answer(self, invocation: Invocation, answer: Answer) -> None:
        """As `invocation.Caller`: it has ended."""
        self.head = answer_head(invocation, answer)
        self.body = answer.body
        holders = tuple(self.holders)
        self._store.answered(self)
        for holder in holders:
            self.send(holder)

    def send(self, holder: HttpProtocol) -> None:
        assert self.head is not None
        holder.respond(200, self.head, self.body)


class KeptAnswers:
    """`changed` is called when one has gone, `log` with a line that says what was dropped."""

    def __init__(
        self, loop: EventLoop, budget: int, *, changed: Callable[[], None], log: Callable[[bytes], None]
    ) -> None:
        self._loop = loop
        self._budget = budget
        self._changed = changed
        self._log = log
        self._known: dict[Key, KeptAnswer] = {}
        self._orphans: OrderedDict[KeptAnswer, None] = OrderedDict()
        """Oldest first."""
        self._lifetime = wire.KEPT_SECONDS
        self._timer: TimerHandle | None = None
        self.size = 0
        self._dropped = 0
        self._log_timer: TimerHandle | None = None

    def __len__(self) -> int:
        """How many are not handled: those that run, are held, or are orphans."""
        return len(self._known)

    def find(self, key: Key) -> KeptAnswer | None:
        return self._known.get(key)

    def begin(self, key: Key) -> KeptAnswer:
        """An attempt that is not known is about to run."""
        kept = self._known[key] = KeptAnswer(self, key)
        return kept

    def hold(self, kept: KeptAnswer, holder: HttpProtocol) -> None:
        """This connection asks for it; it gets the answer now, or once there is one."""
        kept.holders.add(holder)
        if kept.head is not None:
            self._orphans.pop(kept, None)
            kept.send(holder)

    def leave(self, kept: KeptAnswer, holder: HttpProtocol) -> None:
        """That connection has closed."""
        kept.holders.discard(holder)
        if not kept.holders and kept.head is not None:
            self._orphan(kept)

    def forget(self, kept: KeptAnswer) -> bool:
        """A gateway has handled it. False if there is no such answer (any more), or it still runs."""
        if kept.head is None or self._known.get(kept.key) is not kept:
            return False
        self._remove(kept)
        return True

    def answered(self, kept: KeptAnswer) -> None:
        assert kept.head is not None
        kept.size = len(kept.head) + len(kept.body) + OVERHEAD
        self.size += kept.size
        if not kept.holders:
            self._orphan(kept)
        if self.size > self._budget:
            self._make_room()

    def drain(self) -> None:
        """The agent stops: from now on orphans are kept for `wire.KEPT_DRAIN_SECONDS` only."""
        self._lifetime = wire.KEPT_DRAIN_SECONDS
        if self._timer is not None:
            self._timer.cancel()
        self._expire()

    def _orphan(self, kept: KeptAnswer) -> None:
        if self._known.get(kept.key) is not kept:
            return
        kept.orphaned_at = self._loop.time()
        self._orphans[kept] = None
        if self._timer is None:
            self._timer = self._loop.call_later(self._lifetime, self._expire)

    def _remove(self, kept: KeptAnswer) -> None:
        del self._known[kept.key]
        self.size -= kept.size
        self._orphans.pop(kept, None)
        self._changed()

    def _expire(self) -> None:
        self._timer = None
        due = self._loop.time() - self._lifetime
        while self._orphans:
            oldest = next(iter(self._orphans))
            if oldest.orphaned_at > due:
                self._timer = self._loop.call_later(oldest.orphaned_at - due, self._expire)
                return
            self._remove(oldest)

    def _make_room(self) -> None:
        """Drop orphans, then held answers, the oldest first: memory that runs out would end the whole pod."""
        while self.size > self._budget and self._orphans:
            self._drop(next(iter(self._orphans)))
        if self.size > self._budget:
            for kept in [kept for kept in self._known.values() if kept.head is not None]:
                self._drop(kept)
                if self.size <= self._budget:
                    break

    def _drop(self, kept: KeptAnswer) -> None:
        self._remove(kept)
        self._dropped += 1
        if self._log_timer is None:
            self._log_dropped()
            self._log_timer = self._loop.call_later(LOG_PAUSE, self._log_more)

    def _log_more(self) -> None:
        self._log_timer = None
        if self._dropped:
            self._log_dropped()
            self._log_timer = self._loop.call_later(LOG_PAUSE, self._log_more)

    def _log_dropped(self) -> None:
        self._log(
            b"kappa: answers to events dropped before a gateway had handled them: %d."
            b" All kept answers may take %.1f MiB. If their gateway has died, these events are run again;"
            b" a Function with more memory keeps more\n" % (self._dropped, self._budget / 1024 / 1024)
        )
        self._dropped = 0
