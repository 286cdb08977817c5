"""Asking the agents of pods that run and are not ready what went wrong: so an import error becomes a condition."""

import asyncio
import functools
import json
import logging
from collections.abc import Callable, Iterable
from typing import Final

import aiohttp

from kappa_core import names, wire
from kappa_core.observed import PodFacts, Problem
from kappa_core.reasons import Reason

logger = logging.getLogger(__name__)

FIRST_DELAY: Final = 1.0
"""Seconds a pod may run before it is asked: most are ready by then."""
LONGEST_DELAY: Final = 30.0
HOLD_SECONDS: Final = 10
"""How long the agent may hold its answer until it knows one."""
CONCURRENCY: Final = 50
MAX_ANSWER: Final = 64 * 1024
LISTEN_SECONDS: Final = 30.0
"""How long a web server (`protocol: http`) may run before it listens: less than a request waits for a pod."""
UNREADABLE_CODE: Final = frozenset({"Kappa.CodeUnreadable", "Runtime.CodeUnreadable", "InvalidZipFileException"})


class InitProbes:
    """`failures` returns what is known, and asks the other pods; `enqueue(key)` follows each problem found."""

    def __init__(self, enqueue: Callable[[str], None], port: int = names.AGENT_PORT) -> None:
        self._enqueue = enqueue
        self._port = port
        self._failures: dict[str, dict[str, Problem]] = {}
        self._asking: dict[str, dict[str, asyncio.Task[None]]] = {}
        self._limit = asyncio.Semaphore(CONCURRENCY)
        self._session: aiohttp.ClientSession | None = None

    async def run(self) -> None:
        """Holds the connections until cancelled."""
        limits = aiohttp.ClientTimeout(total=HOLD_SECONDS + 2, sock_connect=2)
        connector = aiohttp.TCPConnector(limit=CONCURRENCY, force_close=True)
        async with aiohttp.ClientSession(timeout=limits, connector=connector, trust_env=False) as session:
            self._session = session
            try:
                await asyncio.Event().wait()
            finally:
                self._session = None
                tasks = [task for asking in self._asking.values() for task in asking.values()]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def failures(self, key: str, pods: Iterable[PodFacts]) -> dict[str, Problem]:
        """Pod uid → why its code does not load, for those of `pods` that are not ready."""
        doubtful = {pod.uid: pod for pod in pods if pod.running and pod.ip and not pod.ready and not pod.terminating}
        known = {uid: problem for uid, problem in self._failures.get(key, {}).items() if uid in doubtful}
        if known:
            self._failures[key] = known
        else:
            self._failures.pop(key, None)
        asking = self._asking.get(key, {})
        for uid in [uid for uid in asking if uid not in doubtful]:
            asking.pop(uid).cancel()
        for uid, pod in doubtful.items():
            if uid not in known and uid not in asking and self._session is not None:
                look = self._ask if pod.protocol == "lambda" else self._await_listening
                task = asyncio.create_task(look(key, pod), name=f"ask {pod.namespace}/{pod.name}")
                self._asking.setdefault(key, asking)[uid] = task
                task.add_done_callback(functools.partial(self._done, key, uid))
        return known

    def forget(self, key: str) -> None:
        self._failures.pop(key, None)
        for task in self._asking.pop(key, {}).values():
            task.cancel()

    def _done(self, key: str, uid: str, _: object) -> None:
        asking = self._asking.get(key, {})
        asking.pop(uid, None)
        if not asking:
            self._asking.pop(key, None)

    async def _ask(self, key: str, pod: PodFacts) -> None:
        """Until the agent answers that it is ready or failed; cancelled when the pod is ready or gone."""
        delay = FIRST_DELAY
        while True:
            await asyncio.sleep(delay)
            delay = min(LONGEST_DELAY, delay * 2)
            try:
                async with self._limit:
                    problem, known = await self._ask_once(pod)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                logger.debug(
                    "no answer from the agent", extra={"pod": f"{pod.namespace}/{pod.name}", "error": str(error)}
                )
                continue
            if problem is not None:
                self._failures.setdefault(key, {})[pod.uid] = problem
                self._enqueue(key)
            if known:
                return

    async def _await_listening(self, key: str, pod: PodFacts) -> None:
        """The kubelet's readiness probe looks at the port: this is cancelled when the pod is ready."""
        await asyncio.sleep(LISTEN_SECONDS)
        self._failures.setdefault(key, {})[pod.uid] = Problem(
            Reason.NOT_LISTENING,
            f"nothing listens on port {pod.port} of the pod {LISTEN_SECONDS:.0f} s after its container started."
            " Make the server listen on 0.0.0.0 and the port that the variable PORT names,"
            " or set spec.code.image.port.",
        )
        self._enqueue(key)

    async def _ask_once(self, pod: PodFacts) -> tuple[Problem | None, bool]:
        """(what is wrong, whether the answer is final)."""
        assert self._session is not None
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        url = f"http://{host}:{self._port}{wire.READY_PATH}?wait={HOLD_SECONDS}"
        async with self._session.get(url) as response:
            if response.status == 200:
                return None, True
            answer = json.loads(await response.content.read(MAX_ANSWER))
            if not isinstance(answer, dict) or answer.get("state") != wire.INIT_FAILED:
                return None, False
            return init_problem(str(answer.get("errorType", "")), str(answer.get("errorMessage", ""))), True


def init_problem(error_type: str, message: str) -> Problem:
    """An agent's InitError as a problem."""
    text = ": ".join(part for part in (error_type, message.strip()) if part)
    if error_type in UNREADABLE_CODE:
        return Problem(
            Reason.CODE_UNREADABLE, f"the code cannot be read: {text}. Correct spec.code and apply it again."
        )
    text = text.rstrip(".")
    if "signal: killed" in message:
        return Problem(
            Reason.INIT_FAILED, f"the code does not load: {text}. If it needs more memory to start, raise spec.memory."
        )
    return Problem(Reason.INIT_FAILED, f"the code does not load: {text}. Correct it and apply it again.")
