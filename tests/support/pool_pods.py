"""Pool pods in the test's own process that accept a function, refuse it, break or vanish; and a gateway that knows
them."""

import asyncio
import base64
import json
import time
from dataclasses import dataclass, field

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

from kappa_core import wire
from kappa_core.function import Function
from kappa_core.specialize import Refused, read
from kappa_gateway.pods.platform import PoolPod

KEY = bytes(range(32))
PRIVATE_KEY = base64.b64encode(KEY).decode()
RUNTIME = "python3.13"


def pool_function(tools, name="hello", **spec):
    function = tools.function(name, **spec)
    status = {"observedGeneration": 1, "coldStart": {"path": "Pool", "reason": "test"}}
    return Function.model_validate({**function.model_dump(by_alias=True), "status": status})


@dataclass
class FakePoolPod:
    """Behaves as an agent in a pool: the first valid specialize request gives it a function, and is answered with the
    first invocation's answer."""

    tools: object
    name: str
    uid: str
    refuse: tuple[str, str] | None = None
    """Status line and reason."""
    hold: asyncio.Event | None = None
    """Answer events only once this is set."""
    late: asyncio.Event | None = None
    """Take the function only once this is set."""
    break_off: bool = False
    forget: bool = False
    """Break off, and still have no function."""
    taken: object = None
    received: list = field(default_factory=list)
    """Bodies of specialize requests, as read."""
    pod: object = None

    async def start(self):
        self.pod = self.tools.pod(self.answer)
        self.pod.ready_answer = self.tools.response(b'{"state":"pool"}')
        await self.pod.start()

    async def answer(self, request):
        if request.target == wire.SPECIALIZE_PATH:
            return await self.specialize(request)
        if self.taken is None:
            return self.refusal("503 Service Unavailable", wire.REFUSED_POOL)
        if self.hold is not None:
            await self.hold.wait()
        return self.tools.response(request.body)

    async def specialize(self, request):
        if self.refuse is not None:
            return self.refusal(*self.refuse)
        if self.taken is not None:
            return self.refusal("409 Conflict", wire.REFUSED_TAKEN)
        try:
            got = read(request.body, pod_uid=self.uid, now=time.time(), agent_started=0.0, verify=verify)
        except Refused as refused:
            return self.refusal("403 Forbidden", refused.reason)
        self.received.append((request, got))
        if self.late is not None:
            await self.late.wait()
        if self.break_off:
            if not self.forget:
                self.become(got)
            return None
        self.become(got)
        if self.hold is not None:
            await self.hold.wait()
        headers = {wire.PHASES: "verify=0.01,code=0.02,init=0.03,run=0.04", wire.EXECUTED_VERSION: "$LATEST"}
        return self.tools.response(got.payload, headers=headers)

    def become(self, got):
        self.taken = got.specialization
        config = got.specialization.config
        function = f"{config.function_namespace}/{config.function_name}"
        self.pod.ready_answer = self.tools.response(
            json.dumps({"state": "ready", "function": function, "specHash": got.specialization.spec_hash}).encode()
        )

    def refusal(self, status, reason):
        return self.tools.response(b'{"errorType":"Kappa.Refused"}', status, {wire.REFUSED: reason})

    @property
    def as_pool_pod(self):
        return PoolPod("default", RUNTIME, self.name, self.uid, "127.0.0.1", self.pod.port)


def verify(message, signature):
    try:
        SigningKey(KEY).verify_key.verify(message, signature)
    except BadSignatureError:
        return False
    return True


class Pools:
    """The gateway of a test, and the pool pods that its backend reports."""

    def __init__(self, run, tools):
        self.run, self.tools = run, tools
        self.pods = []

    @property
    def free_pods(self):
        return self.run.gateway.warm.free_pods

    def function(self, name="hello"):
        return self.run.gateway.functions.get("default", name)

    async def add(self, *, is_awaited=False, **how):
        number = len(self.pods)
        made = FakePoolPod(self.tools, f"pool-{number}", f"uid-{number}", **how)
        await made.start()
        self.pods.append(made)
        self.run.pods.append(made.pod)
        free = self.free
        self.run.sink.put_pool_pod(made.as_pool_pod)
        if not is_awaited:
            await self.tools.eventually(lambda: self.free > free)
        return made

    @property
    def free(self):
        return self.free_pods.free("default", RUNTIME)


def parts(header):
    path, *pairs = header.split(";")
    return path, {name: float(value) for name, _, value in (pair.partition("=") for pair in pairs)}
