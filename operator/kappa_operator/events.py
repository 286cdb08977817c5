"""Kubernetes events on Functions when their state changes, for `kubectl describe function`. Best effort: nothing waits
for them.
"""

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol

from kappa_core import names
from kappa_core.function import Condition, FunctionStatus
from kappa_core.reasons import ConditionType
from kappa_kube import paths
from kappa_kube.connection import Json
from kappa_kube.errors import NotLeader, RequestFailed
from kappa_operator.cache import FunctionRecord

logger = logging.getLogger(__name__)

CONTROLLER: Final = f"{names.GROUP}/operator"
NOTE_LIMIT: Final = 1000
"""The API takes 1 KiB."""
QUIET_SECONDS: Final = 600.0
"""The same Kubernetes event about the same Function is written once in this time."""
REMEMBERED: Final = 2000
QUEUE_LIMIT: Final = 500
PER_SECOND: Final = 20.0


class EventApi(Protocol):
    async def create(self, path: str, body: Json) -> Json: ...


class EventRecorder:
    def __init__(self, api: EventApi, instance: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._instance = instance
        self._clock = clock
        # Two queues, so that a thousand new Functions do not hide the one that is broken.
        self._queues: dict[str, deque[Json]] = {kind: deque(maxlen=QUEUE_LIMIT) for kind in ("Warning", "Normal")}
        self._wake = asyncio.Event()
        self._written: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    def status_changed(self, record: FunctionRecord, old: FunctionStatus, new: FunctionStatus) -> None:
        """Record what changed between two statuses of a Function, if a user should know it."""
        before, after = _ready(old), _ready(new)
        if after is None:
            return
        if after.status == "False":
            if before is None or (before.status, before.reason, before.message) != (
                "False",
                after.reason,
                after.message,
            ):
                self._record(record, "Warning", after.reason, after.message)
        elif before is None:
            self._record(record, "Normal", "Deployed", f"Deployment {names.deployment_name(record.name)} applied.")
        elif before.status == "False":
            self._record(record, "Normal", "Recovered", f"The function can be invoked again (it was: {before.reason}).")
        elif old.observed_generation != new.observed_generation:
            self._record(record, "Normal", "Updated", f"Generation {new.observed_generation} applied.")

    async def run(self) -> None:
        """Write what is queued, at a bounded rate, until cancelled."""
        while True:
            queue = next((queue for queue in self._queues.values() if queue), None)
            if queue is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            event = queue.popleft()
            try:
                await self._api.create(paths.collection(paths.EVENTS, event["metadata"]["namespace"]), event)
            except RequestFailed as error:
                logger.info("cannot write a Kubernetes event", extra={"reason": event["reason"], "error": str(error)})
            except NotLeader:
                return
            await asyncio.sleep(1 / PER_SECOND)

    def _record(self, record: FunctionRecord, kind: str, reason: str, note: str) -> None:
        key = (record.uid, reason, note)
        now = self._clock()
        last = self._written.get(key)
        if last is not None and now - last < QUIET_SECONDS:
            return
        self._written[key] = now
        self._written.move_to_end(key)
        if len(self._written) > REMEMBERED:
            self._written.popitem(last=False)
        self._queues[kind].append(
            {
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {"generateName": f"{record.name[:50]}-", "namespace": record.namespace},
                "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                "reportingController": CONTROLLER,
                "reportingInstance": self._instance[:128],
                "action": "Reconcile",
                "reason": reason,
                "note": note.encode()[:NOTE_LIMIT].decode(errors="ignore"),
                "type": kind,
                "regarding": {
                    "apiVersion": names.API_VERSION,
                    "kind": names.KIND,
                    "namespace": record.namespace,
                    "name": record.name,
                    "uid": record.uid,
                    "resourceVersion": str(record.resource_version),
                },
            }
        )
        self._wake.set()


def _ready(status: FunctionStatus) -> Condition | None:
    return next((condition for condition in status.conditions if condition.type == ConditionType.READY), None)
