"""The gateways' claims of pool pods, and which of them the pods confirm.

Gateways' claims alone decide which Function a pod belongs to. The pod's own answer only confirms that it was
specialized: a function's code could make its pod answer anything. A specialized pod that no gateway claims is deleted,
with its grace period.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final, TypeVar

import aiohttp

from kappa_core import adoption, names, wire
from kappa_core.demand import Claim, DemandReport
from kappa_core.observed import PodFacts
from kappa_kube.errors import NotLeader, RequestFailed
from kappa_operator.cache import Cache

logger = logging.getLogger(__name__)

PROBE_INTERVAL: Final = 10.0
PROBE_SECONDS: Final = 2.0
"""How long a pod may take to answer."""
CONFIRM_DELAYS: Final = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.0)
"""Seconds before each question to a pod that was just claimed: the gateway's request may not have reached it yet."""
CONCURRENCY: Final = 50
MAX_ANSWER: Final = 64 * 1024
T = TypeVar("T")


class Claims:
    """`report` takes the gateways' reports; `confirmed` is for reconciling the Function that claimed a pod.

    `enqueue` puts a Function's key on the work queue; `claimed(namespace, runtime)` is called for each confirmed claim;
    `retire(pod, why)` deletes a pod.
    """

    def __init__(
        self,
        cache: Cache,
        operator: str,
        enqueue: Callable[[str], None],
        claimed: Callable[[str, str], None],
        retire: Callable[[PodFacts, str], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self._operator = operator
        self._enqueue = enqueue
        self._claimed = claimed
        self._retire = retire
        self._clock = clock
        self._claims: dict[str, dict[str, Claim]] = {}
        """Gateway → pod uid → its claim."""
        self._confirmed: dict[str, Claim] = {}
        """Pod uid → the claim that the pod confirmed."""
        self._unclaimed_since: dict[str, float] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._limit = asyncio.Semaphore(CONCURRENCY)
        self._session: aiohttp.ClientSession | None = None

    def confirmed(self, function_key: str) -> list[tuple[PodFacts, Claim]]:
        """The pods that are still in their pool, and confirmed the Function's claim."""
        return [
            (pod, claim)
            for pod in self._cache.free_pods()
            if adoption.is_free(pod, self._operator)
            and (claim := self._confirmed.get(pod.uid)) is not None
            and names.function_key(claim.namespace, claim.function) == function_key
        ]

    def settled(self, pod_uid: str) -> None:
        """The pod left its pool, or is gone; a claim that a gateway repeats is checked again."""
        self._confirmed.pop(pod_uid, None)

    def report(self, gateway: str, report: DemandReport) -> None:
        """Take the claims of a gateway's report, and ask their pods at once."""
        known = self._claims.setdefault(gateway, {})
        reported = {claim.pod_uid: claim for claim in report.claims}
        if report.full:
            known.clear()
        known.update(reported)
        if not known:
            del self._claims[gateway]
        for uid, claim in reported.items():
            if uid not in self._confirmed and uid not in self._looking and self._session is not None:
                record = self._cache.pods.get(f"{claim.namespace}/{claim.pod}")
                if record is not None and record.facts.uid == uid and adoption.is_free(record.facts, self._operator):
                    self._looking[uid] = asyncio.create_task(
                        self._confirm(record.facts), name=f"ask {claim.namespace}/{claim.pod}"
                    )

    async def run(self) -> None:
        """Ask all pool pods every `PROBE_INTERVAL` seconds which Function they serve, until cancelled."""
        limits = aiohttp.ClientTimeout(total=PROBE_SECONDS, sock_connect=1)
        connector = aiohttp.TCPConnector(limit=CONCURRENCY, force_close=True)
        async with aiohttp.ClientSession(timeout=limits, connector=connector, trust_env=False) as session:
            self._session = session
            try:
                while True:
                    await self.look_around()
                    await asyncio.sleep(PROBE_INTERVAL)
            finally:
                self._session = None
                tasks = list(self._looking.values())
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def look_around(self) -> None:
        """Ask every pool pod once, and forget the pods that left their pools."""
        free = [pod for pod in self._cache.free_pods() if adoption.is_free(pod, self._operator)]
        self._forget_all_but({pod.uid for pod in free})
        await asyncio.gather(*(self._look(pod) for pod in free if pod.running and pod.ip))

    def _forget_all_but(self, free: set[str]) -> None:
        """Forget the pods that left their pools; a living gateway repeats its claims."""
        for claims in self._claims.values():
            _keep(claims, free)
        _keep(self._claims, {gateway for gateway, claims in self._claims.items() if claims})
        _keep(self._confirmed, free)
        _keep(self._unclaimed_since, free)

    async def _look(self, pod: PodFacts) -> None:
        if pod.uid in self._confirmed or pod.uid in self._looking:
            return
        whose = await self._ask(pod)
        if whose is None or self._take(pod, whose):
            self._unclaimed_since.pop(pod.uid, None)
            return
        since = self._unclaimed_since.setdefault(pod.uid, self._clock())
        if self._clock() - since >= adoption.UNCLAIMED_SECONDS:
            try:
                await self._retire(pod, "it is specialized, and no gateway claims it")
            except (RequestFailed, NotLeader) as error:
                logger.warning("a pod cannot be deleted, will try again", extra={"pod": pod.name, "error": str(error)})
            else:
                self.settled(pod.uid)

    async def _confirm(self, pod: PodFacts) -> None:
        """Ask a pod that was just claimed until it names its Function; `look_around` handles those that never do."""
        try:
            for delay in CONFIRM_DELAYS:
                await asyncio.sleep(delay)
                whose = await self._ask(pod)
                if whose is not None:
                    self._take(pod, whose)
                    return
        finally:
            self._looking.pop(pod.uid, None)

    def _take(self, pod: PodFacts, whose: tuple[str, str]) -> bool:
        """Whether the pod's answer confirms the one claim that the gateways report of it."""
        claims = {claims[pod.uid] for claims in self._claims.values() if pod.uid in claims}
        if len(claims) != 1:
            return False
        claim = claims.pop()
        key = names.function_key(claim.namespace, claim.function)
        if whose != (key, claim.spec_hash):
            return False
        self._confirmed[pod.uid] = claim
        self._claimed(pod.namespace, pod.pool)
        self._enqueue(key)
        return True

    async def _ask(self, pod: PodFacts) -> tuple[str, str] | None:
        """(function key, spec hash) as the pod answers; None while it is not specialized, or does not answer."""
        if self._session is None:
            return None
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        try:
            async with (
                self._limit,
                self._session.get(f"http://{host}:{pod.port or names.AGENT_PORT}{wire.READY_PATH}") as response,
            ):
                answer = json.loads(await response.content.read(MAX_ANSWER))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            logger.debug("no answer from a pool pod", extra={"pod": f"{pod.namespace}/{pod.name}", "error": str(error)})
            return None
        if not isinstance(answer, dict) or not answer.get("function"):
            return None
        return str(answer["function"]), str(answer.get("specHash", ""))


def _keep(memory: dict[str, T], keys: Collection[str]) -> None:
    for key in [key for key in memory if key not in keys]:
        del memory[key]
