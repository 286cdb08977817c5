"""The client of the chaos tests: it sends events at a given rate, each until it is answered 202, and asks for their
outcomes."""

import asyncio
import json
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import aiohttp
from chaos import Ledger, Outcome, PlannedEvent, Run, Submission

FINAL = {"succeeded", "failed", "expired"}
ASKED_AT_ONCE = 50
PATIENCE = 90.0
"""Seconds for which a client tries again until its event is accepted: longer than any part takes to come back."""


class ChaosClient:
    """`url` is asked before each request: what is restarted may be somewhere else then. Functions in `web` are web
    servers, which are called by their URL."""

    def __init__(
        self, url: Callable[[], str], namespace: str, ledger: Ledger, *, web: Collection[str] = (), callers: int = 50
    ) -> None:
        self.ledger = ledger
        self._url, self._namespace, self._web = url, namespace, web
        self._slots = asyncio.Semaphore(callers)
        self._session = aiohttp.ClientSession(
            # A new connection each time: behind a Service, an old one goes on to a gateway that is gone.
            connector=aiohttp.TCPConnector(limit=callers, force_close=True),
            timeout=aiohttp.ClientTimeout(total=10),
        )

    async def __aenter__(self) -> "ChaosClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, events: Sequence[PlannedEvent], rate: float) -> None:
        """All of them, `rate` in a second; returns when each was accepted, or given up."""
        start = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number, planned in enumerate(events):
                await asyncio.sleep(max(0.0, start + number / rate - time.monotonic()))
                submission = Submission(planned)
                self.ledger.submissions.append(submission)
                group.create_task(self._submit(submission))

    async def _submit(self, submission: Submission) -> None:
        await self._until_accepted(submission)
        if submission.planned.again_after is not None:
            await asyncio.sleep(submission.planned.again_after)
            await self._until_accepted(submission)

    async def _until_accepted(self, submission: Submission) -> None:
        deadline, pause = time.monotonic() + PATIENCE, 0.1
        while time.monotonic() < deadline and not await self._try(submission):
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)

    async def _try(self, submission: Submission) -> bool:
        planned = submission.planned
        headers = {"Kappa-Idempotency-Key": planned.key}
        if planned.function in self._web:
            path = f"/fn/{self._namespace}/{planned.function}/"
            headers["Kappa-Invocation-Type"] = "Event"
        else:
            path = f"/2015-03-31/functions/{self._namespace}.{planned.function}/invocations"
            headers["X-Amz-Invocation-Type"] = "Event"
        body = json.dumps({"key": planned.key, "fails": planned.fails})
        async with self._slots:
            try:
                async with self._session.post(self._url() + path, data=body, headers=headers) as answer:
                    said = await answer.text(errors="replace")
                    if answer.status == 202:
                        submission.request_ids.append(answer.headers["x-amzn-requestid"])
                        submission.accepted_at.append(time.time())
                        return True
                    submission.refusals.append(f"{answer.status} {said[:200]}")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                submission.refusals.append(repr(error))
        return False

    async def learn_outcomes(self, within: float) -> None:
        """Asks for the outcome of each event that was accepted until all have ended, or the time is over: then the
        ledger has what was last said."""
        deadline = time.monotonic() + within
        open_ids = list(
            dict.fromkeys((one.planned.function, each) for one in self.ledger.submissions for each in one.request_ids)
        )
        while open_ids:
            over = time.monotonic() > deadline
            # A few, oldest first: to ask for all of them over and over would be the heaviest load of all.
            asked = open_ids if over else open_ids[:ASKED_AT_ONCE]
            answers = await asyncio.gather(*(self._ask(*each) for each in asked))
            ended = set()
            for each, said in zip(asked, answers, strict=True):
                if said is not None:
                    self.ledger.outcomes[each[1]] = Outcome(said["status"], said["attempts"], said["deadLetter"])
                    if said["status"] in FINAL:
                        ended.add(each)
            if over:
                return
            # what has not ended yet is asked for after all others
            open_ids = open_ids[len(asked) :] + [each for each in asked if each not in ended]
            if len(ended) < len(asked) / 2:
                await asyncio.sleep(0.3)

    async def _ask(self, function: str, request_id: str) -> dict[str, Any] | None:
        return await self._get(f"/v1/namespaces/{self._namespace}/functions/{function}/async/{request_id}")

    async def _get(self, path: str) -> Any:
        """The JSON of the answer, None where there was none (yet)."""
        async with self._slots:
            try:
                async with self._session.get(self._url() + path) as answer:
                    return await answer.json() if answer.status == 200 else None
            except (aiohttp.ClientError, TimeoutError, OSError):
                return None


def runs(collected: str | bytes) -> list[Run]:
    """The runs in the collector's answer to `GET /runs`."""
    return [
        Run(one["run"], one["id"], one["function"], one["pod"], one["start"], one["end"], one["ok"])
        for one in json.loads(collected)
    ]
