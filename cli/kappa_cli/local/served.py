"""What local mode serves now: the catalog, the processes of each function, and the spare ones."""

import asyncio
from collections.abc import Callable, Mapping

from kappa_cli.local.manifests import catalog
from kappa_cli.local.manifests.catalog import Entry
from kappa_cli.local.manifests.reading import Key, Manifests
from kappa_cli.local.processes.function_processes import FunctionProcesses, Shared
from kappa_cli.local.processes.pods import PoolKey
from kappa_cli.local.processes.spare_processes import SpareProcesses
from kappa_core.demand import Claim, DemandReport


class ServedFunctions:
    """Call `apply` with the manifests whenever they change, `scale` with each report of the gateway's demand, `tick`
    each second, and `stop` at the end."""

    def __init__(self, shared: Shared, *, spare_processes: int, public_key: Callable[[], str]) -> None:
        self._shared = shared
        self._spares = SpareProcesses(
            shared.pods,
            shared.console,
            shared.state,
            size=spare_processes,
            public_key=public_key,
            is_busy=lambda: any(processes.is_starting for processes in self._functions.values()),
        )
        self._catalog: Mapping[Key, Entry] | None = None
        self._functions: dict[Key, FunctionProcesses] = {}
        self._removed: dict[asyncio.Task[None], FunctionProcesses] = {}
        """Functions that were removed, whose processes finish their invocations."""
        self._reported: set[str] = set()

    @property
    def catalog(self) -> Mapping[Key, Entry]:
        return self._catalog or {}

    def apply(self, manifests: Manifests) -> None:
        """Serve what the files declare now."""
        first, before = self._catalog is None, self.catalog
        self._catalog = now = catalog.build(manifests, before)
        self._report(manifests)
        if first:
            if manifests.ignored:
                kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(manifests.ignored.items()))
                self._shared.console.say(f"ignored, because only a cluster uses it: {kinds}")
            self._shared.pods.begin([entry.function for entry in now.values()])
        for key in before.keys() - now.keys():
            self._remove(key)
        for key, entry in now.items():
            if before.get(key) is not entry:
                self._put(key, entry, quiet=first)
        self._spares.want({pool for entry in now.values() if (pool := _pool_of(entry)) is not None})

    def scale(self, report: DemandReport) -> None:
        for claim in report.claims:
            self._hand_over(claim)
        demands = {(demand.namespace, demand.name): demand for demand in report.functions}
        for key, processes in self._functions.items():
            if report.full or key in demands:
                processes.demand(demands.get(key))

    def tick(self) -> None:
        for processes in list(self._functions.values()):
            processes.tick()

    async def stop(self, grace: float) -> None:
        """Every process may finish its invocations for `grace` seconds; then all are killed."""
        stops = [asyncio.create_task(processes.stop()) for processes in self._functions.values()]
        stops += [*self._removed, asyncio.create_task(self._spares.stop())]
        _, running = await asyncio.wait(stops, timeout=grace)
        if running:
            self.kill()
            await asyncio.wait(running, timeout=2)

    def kill(self) -> None:
        """End every process now."""
        self._spares.kill()
        for processes in (*self._functions.values(), *self._removed.values()):
            processes.kill()

    # -- inside

    def _put(self, key: Key, entry: Entry, *, quiet: bool) -> None:
        label = catalog.label(*key)
        self._shared.console.reserve(label)
        processes = self._functions.get(key)
        if processes is None:
            processes = self._functions[key] = FunctionProcesses(label, entry.function, self._shared)
            if not quiet:
                self._shared.console.say(f"{label}: added ({entry.path})")
            processes.apply(entry.function, entry.workload)
            return
        replaces = processes.apply(entry.function, entry.workload)
        if entry.workload is not None:
            how = "a new process replaces the running one" if replaces else "the next invocation runs it"
            self._shared.console.say(f"{label}: changed; {how}")

    def _remove(self, key: Key) -> None:
        processes = self._functions.pop(key)
        self._shared.pods.remove_function(*key)
        self._shared.console.say(f"{processes.label}: removed")
        task = asyncio.create_task(processes.stop(), name=f"stop {processes.label}")
        self._removed[task] = processes
        task.add_done_callback(self._removed.pop)

    def _hand_over(self, claim: Claim) -> None:
        """The gateway has made a spare process this function's."""
        key = (claim.namespace, claim.function)
        # a function that was removed a moment ago still gets its process, which then ends as its others do
        removed = (processes for processes in self._removed.values() if processes.key == key)
        processes = self._functions.get(key) or next(removed, None)
        if processes is not None and (taken := self._spares.take(claim.pod_uid)) is not None:
            process, lines = taken
            processes.adopt(process, claim.spec_hash, lines)

    def _report(self, manifests: Manifests) -> None:
        """Print each problem and remark once, and again if it comes back."""
        texts = [*map(str, manifests.problems), *catalog.remarks(self.catalog)]
        for text in texts:
            if text not in self._reported:
                self._shared.console.say(text)
        self._reported = set(texts)


def _pool_of(entry: Entry) -> PoolKey | None:
    """The pool that a cold start of this function uses."""
    way = entry.function.status.cold_start
    if entry.workload is None or way is None or way.path != "Pool":
        return None
    return entry.function.metadata.namespace, entry.function.spec.runtime or ""
