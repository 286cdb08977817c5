"""The borrower's side of loans: one task per function that asks other gateways for a place, pod by pod."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import aiohttp

from kappa_core import wire
from kappa_gateway.backend import Peer
from kappa_gateway.pools.loans import LoanRequest, encode
from kappa_gateway.state import FunctionState

if TYPE_CHECKING:
    from kappa_gateway.pools.vacancies import Vacancies, Vacancy

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT: Final = 0.25
"""Seconds: by then a pod of the Deployment is nearly there."""
MOST_LENDERS: Final = 3
"""Gateways that are asked for one place."""
PAUSE: Final = 0.1
"""Seconds until gateways that lent nothing are asked again."""


class Borrower:
    """`claim(function, vacancy)` takes a pod for which a place was lent; `give_back(vacancy)` puts one back into the pool;
    `look(function)` is called when asking may be worth it again."""

    def __init__(
        self,
        name: str,
        port: int,
        sign: Callable[[bytes], bytes],
        vacancies: "Vacancies",
        *,
        claim: Callable[[FunctionState, "Vacancy"], None],
        give_back: Callable[["Vacancy"], None],
        look: Callable[[FunctionState], None],
    ) -> None:
        self._name = name
        self._port = port
        self._sign = sign
        self._vacancies = vacancies
        self._claim = claim
        self._give_back = give_back
        self._look = look
        self._tasks: dict[FunctionState, asyncio.Task[None]] = {}
        self._paused: set[FunctionState] = set()
        self._session: aiohttp.ClientSession | None = None

    def asks(self, function: FunctionState) -> bool:
        """Whether a pod is being asked for."""
        return function in self._tasks

    def borrow(self, function: FunctionState, runtime: str, count: int, lenders: list[Peer]) -> None:
        """Try to have `count` more pods, of those `lenders` in turn."""
        if function in self._tasks or function in self._paused or not lenders or self._port <= 0:
            return
        loop = asyncio.get_running_loop()
        task = loop.create_task(
            self._borrow(function, runtime, count, lenders[:MOST_LENDERS]), name=f"borrow for {function.key}"
        )
        self._tasks[function] = task
        task.add_done_callback(lambda done: self._ended(function, done))

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    # -- inside

    async def _borrow(self, function: FunctionState, runtime: str, count: int, lenders: list[Peer]) -> None:
        for _ in range(count):
            vacancy = self._vacancies.take(function.namespace, runtime)
            if vacancy is None:
                return
            lent = wanted = False
            try:
                lent = await self._ask(function, vacancy, lenders)
                wanted = bool(function.waiters) and function.claimable
            finally:
                if not (lent and wanted):
                    self._give_back(vacancy)
            if not lent:
                self._paused.add(function)
                asyncio.get_running_loop().call_later(PAUSE, self._resume, function)
            if not (lent and wanted):
                return
            self._claim(function, vacancy)

    async def _ask(self, function: FunctionState, vacancy: "Vacancy", lenders: list[Peer]) -> bool:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=32, keepalive_timeout=60.0),
                timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        for lender in lenders:
            host = f"[{lender.host}]" if ":" in (lender.host or "") else lender.host
            request = LoanRequest(
                lender=lender.name,
                borrower=self._name,
                namespace=function.namespace,
                function=function.name,
                pod=vacancy.pod.name,
                pod_uid=vacancy.pod.uid,
                asked_at=time.time(),
            )
            body, signature = encode(request, self._sign)
            url = f"http://{host}:{self._port}{wire.LOANS_PATH}"
            try:
                async with self._session.post(url, data=body, headers={wire.SIGNATURE: signature}) as answer:
                    if answer.status == 200:
                        return True
                    if answer.status != 409:
                        logger.warning(
                            "another gateway refused to lend a place of maxReplicas: %s",
                            (await answer.text())[:300],
                            extra={"lender": lender.name, "status": answer.status},
                        )
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                logger.debug(
                    "another gateway cannot be asked for a place of maxReplicas: %s",
                    str(error) or type(error).__name__,
                    extra={"lender": lender.name},
                )
        return False

    def _resume(self, function: FunctionState) -> None:
        self._paused.discard(function)
        self._look(function)

    def _ended(self, function: FunctionState, task: asyncio.Task[None]) -> None:
        self._tasks.pop(function, None)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            logger.error("borrowing a place failed", exc_info=error, extra={"function": function.key})
        elif function not in self._paused:
            self._look(function)
