"""Functions and callers for the tests of the installed chart."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from kubectl import Kubectl
from waiting import eventually

KIND = "functions.kappa.run"
"""In full: kubectl remembers other tests' CRDs of that plural for a while."""
HELLO = """
def handler(event, context):
    return {"hello": event.get("name", "world")}
"""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Function:
    """A Function in the cluster, and what a user does with it."""

    kubectl: Kubectl
    gateway: str
    namespace: str
    name: str
    spec: Mapping[str, Any]

    @property
    def invoke_url(self) -> str:
        return f"{self.gateway}/2015-03-31/functions/{self.namespace}.{self.name}/invocations"

    @property
    def url(self) -> str:
        return f"{self.gateway}/fn/{self.namespace}/{self.name}"

    def apply(self, **changes: Any) -> None:
        """Apply the manifest, with fields of the spec replaced, or left out where they are None."""
        self.kubectl.apply(
            {
                "apiVersion": "kappa.run/v1alpha1",
                "kind": "Function",
                "metadata": {"name": self.name},
                "spec": {key: value for key, value in {**self.spec, **changes}.items() if value is not None},
            },
            namespace=self.namespace,
        )

    async def invoke(
        self, event: object = None, timeout: float = 60, patient: bool = True, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One call of Lambda's Invoke over a connection of its own.

        A gateway hears of a Function a moment after `kubectl apply` has ended: `patient` asks again while it has not.
        """
        deadline = time.monotonic() + 5
        while True:
            answer = await self._invoke(event, timeout, headers)
            if answer.status != 404 or not patient or time.monotonic() > deadline:
                return answer
            await asyncio.sleep(0.1)

    async def _invoke(self, event: object, timeout: float, headers: Mapping[str, str] | None = None) -> Answer:
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(timeout)) as session:
            body = json.dumps({} if event is None else event)
            async with session.post(self.invoke_url, data=body, headers=headers) as answer:
                return Answer(answer.status, answer.headers.copy(), await answer.read())

    @property
    def events_url(self) -> str:
        """Of its asynchronous invocations."""
        return f"{self.gateway}/v1/namespaces/{self.namespace}/functions/{self.name}/async"

    async def submit(self, event: object = None, timeout: float = 10, **headers: str) -> str:
        """An asynchronous invocation: its request id, once a gateway that knows the Function accepts it."""

        async def accepted() -> str:
            answer = await self.try_to_submit(event, **headers)
            assert answer.status == 202, f"{answer.status} {answer.body!r}"
            return str(answer.headers["x-amzn-requestid"])

        return await eventually(accepted, "202", within=timeout, every=0.1)

    async def try_to_submit(self, event: object = None, **headers: str) -> Answer:
        return await self._invoke(event, 30, {"X-Amz-Invocation-Type": "Event", **headers})

    async def event(self, request_id: str) -> dict[str, Any]:
        """What the gateway says of an asynchronous invocation; an AssertionError while it cannot say."""
        answer = await self._get(f"{self.events_url}/{request_id}")
        assert answer.status == 200, f"{answer.status} {answer.body!r}"
        found: dict[str, Any] = answer.json()
        return found

    async def events(self) -> list[dict[str, Any]]:
        """Of all its asynchronous invocations, newest first."""
        answer = await self._get(self.events_url)
        assert answer.status == 200, f"{answer.status} {answer.body!r}"
        found: list[dict[str, Any]] = answer.json()["invocations"]
        return found

    async def ended(self, request_id: str, timeout: float = 60) -> dict[str, Any]:
        """The same, once it has ended. The gateway may be away meanwhile."""

        async def final() -> dict[str, Any]:
            try:
                event = await self.event(request_id)
            except (aiohttp.ClientError, TimeoutError) as error:
                raise AssertionError(repr(error)) from error
            assert event["status"] in ("succeeded", "failed", "expired"), event
            return event

        return await eventually(final, f"the end of {request_id}", within=timeout, every=0.1)

    async def _get(self, url: str) -> Answer:
        connector = aiohttp.TCPConnector(force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(20)) as session,
            session.get(url) as answer,
        ):
            return Answer(answer.status, answer.headers.copy(), await answer.read())

    def get(self) -> dict[str, Any]:
        found: dict[str, Any] = self.kubectl.get("functions", self.name, namespace=self.namespace)
        return found

    def condition(self, kind: str = "Ready") -> dict[str, Any]:
        """The condition, if it is about the present spec; else an AssertionError."""
        function = self.get()
        generation = function["metadata"]["generation"]
        for condition in function.get("status", {}).get("conditions", []):
            if condition["type"] == kind and condition.get("observedGeneration") == generation:
                return dict(condition)
        raise AssertionError(f"{self.name} has no condition {kind} of generation {generation} yet: {function}")

    def describe(self) -> str:
        return str(self.kubectl("describe", KIND, self.name, namespace=self.namespace))

    def pods(self) -> list[dict[str, Any]]:
        """Its pods that are not on their way out."""
        found = self.kubectl.items("pods", f"kappa.run/function={self.name}", namespace=self.namespace)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def settled(self) -> list[dict[str, Any]]:
        """Its pods, once exactly those that its Deployment wants exist and are ready. For a moment after a cold start,
        a pod from a warm pool and the one created in its place both exist. Raises AssertionError until then."""
        pods = self.pods()
        deployment = self.kubectl.get("deployments", f"fn-{self.name}", namespace=self.namespace)
        ready = deployment["status"].get("readyReplicas", 0)
        assert len(pods) == deployment["spec"]["replicas"] == ready > 0, f"{len(pods)} pods, {ready} ready"
        assert all(pod["metadata"].get("ownerReferences") for pod in pods), "one is adrift"
        return pods

    async def known(self) -> None:
        """Wait until the gateways know it. Each connection may be to another one: eight in a row reach them all."""

        async def eight_in_a_row() -> bool:
            for _ in range(8):
                answer = await self._invoke({}, 10, {"X-Amz-Invocation-Type": "DryRun"})
                assert answer.status != 404, f"{answer.status} {answer.body!r}"
            return True

        await eventually(eight_in_a_row, within=10)

    def wanted_replicas(self) -> int:
        deployment = self.kubectl.get("deployments", f"fn-{self.name}", namespace=self.namespace)
        return int(deployment["spec"]["replicas"])

    def is_verified(self) -> bool:
        """Its code was verified, and the pod for that is gone."""
        return bool(self.get().get("status", {}).get("verifiedRevision")) and not self.pods()

    def delete(self) -> None:
        self.kubectl("delete", KIND, self.name, "--ignore-not-found", namespace=self.namespace)


@pytest.fixture(scope="session")
def home(make_namespace: Callable[[], str]) -> str:
    """The namespace of most functions here: one for all tests, with restricted Pod Security enforced."""
    return make_namespace()


@pytest.fixture
def new_function(kubectl: Kubectl, gateway_url: str, home: str) -> Iterator[Callable[..., Function]]:
    """`new_function(code=…, scaling=…)` applies a Function of a name of its own; deleted after the test."""
    made: list[Function] = []

    def new(
        code: str | Mapping[str, Any] = HELLO,
        *,
        name: str | None = None,
        namespace: str | None = None,
        apply: bool = True,
        **spec: Any,
    ) -> Function:
        function = Function(
            kubectl,
            gateway_url,
            namespace or home,
            name or f"f-{secrets.token_hex(3)}",
            {
                "runtime": "python3.13",
                "handler": "main.handler",
                "code": {"inline": code} if isinstance(code, str) else code,
                **spec,
            },
        )
        made.append(function)
        if apply:
            function.apply()
        return function

    yield new
    for function in made:
        function.delete()


@dataclass
class Load:
    """What callers saw: every answer, and every error in place of one."""

    answers: list[Answer] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def assert_all_good(self) -> None:
        bad = [f"{each.status} {each.body[:300]!r}" for each in self.answers if each.status != 200]
        bad += [
            f"function error {each.body[:300]!r}" for each in self.answers if "X-Amz-Function-Error" in each.headers
        ]
        problems = self.errors + bad
        assert not problems, f"{len(problems)} of {len(self.answers) + len(self.errors)} failed, first: {problems[:3]}"
        assert self.answers, "no request was made"


class LoadMaker:
    """`async with load(function, callers=4) as seen:` calls it repeatedly in the background until the block ends."""

    @asynccontextmanager
    async def __call__(
        self, function: Function, callers: int = 4, event: object = None, keep_alive: bool = False, pause: float = 0.01
    ) -> AsyncIterator[Load]:
        seen, stop = Load(), asyncio.Event()
        body = json.dumps({} if event is None else event)

        async def call(session: aiohttp.ClientSession) -> None:
            while not stop.is_set():
                try:
                    async with session.post(function.invoke_url, data=body) as answer:
                        seen.answers.append(Answer(answer.status, answer.headers.copy(), await answer.read()))
                except (aiohttp.ClientError, TimeoutError) as error:
                    seen.errors.append(repr(error))
                await asyncio.sleep(pause)

        connector = aiohttp.TCPConnector(limit=0, force_close=not keep_alive)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(call(session))
            try:
                yield seen
            finally:
                stop.set()


@pytest.fixture(scope="session")
def load() -> LoadMaker:
    return LoadMaker()


def gateway_pods(kubectl: Kubectl) -> list[dict[str, Any]]:
    selector = "app.kubernetes.io/name=kappa,app.kubernetes.io/component=gateway"
    found = kubectl.items("pods", selector, namespace="kappa-system")
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


@pytest.fixture
def gateways(kubectl: Kubectl, gateway_url: str) -> Callable[[], list[dict[str, Any]]]:
    """The gateway's pods now."""
    return lambda: gateway_pods(kubectl)
