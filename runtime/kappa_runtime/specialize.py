"""How a pool pod becomes a Function's: a request is found good, and the agent is made that it asks for."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Mapping

from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

from kappa_core import names, specialize, wire
from kappa_core.agent_config import AgentConfig
from kappa_core.specialize import Malformed, Received, Refused, Specialization
from kappa_runtime import ahead, environment, launch, logs, procfs
from kappa_runtime.agent import Agent
from kappa_runtime.http_protocol import Request
from kappa_runtime.runtime_api import RuntimeApiProtocol

TYPE_CHECKING = False  # `typing` would be loaded for annotations alone
if TYPE_CHECKING:
    from kappa_runtime.pool_server import Pool


def verifier(public_key: str) -> Callable[[bytes, bytes], bool]:
    """(message, signature) → whether this Ed25519 key, base64, made it. Raises `ValueError` for what is no key."""
    try:
        key = VerifyKey(base64.b64decode(public_key, validate=True))
    except (ValueError, CryptoError) as error:
        raise ValueError(f"KAPPA_POOL_PUBLIC_KEY is no Ed25519 key of 32 bytes in base64: {error}") from None

    def verify(message: bytes, signature: bytes) -> bool:
        try:
            key.verify(message, signature)
        except (ValueError, CryptoError):
            return False
        return True

    return verify


def read(pool: Pool, request: Request) -> Received:
    """Raises `Malformed` and `Refused`."""
    config = pool.config
    received = specialize.read(
        request.body, pod_uid=config.pod_uid, now=time.time(), agent_started=pool.started, verify=pool.verify
    )
    asked = received.specialization.config
    if asked.runtime != config.runtime:
        raise Refused(wire.REFUSED_OTHER_POD, f"the runtime is {asked.runtime!r}, this pod's is {config.runtime!r}")
    if asked.sidecar:
        raise Malformed("an image's agent is no pool pod")
    return received


def rehearse(pool: Pool) -> None:
    """What the first request would find not yet in memory, or never run: with a key of its own, and nothing kept of it."""
    config = AgentConfig(function_name=ahead.REHEARSAL, handler="main.handler", runtime=pool.config.runtime)
    key = SigningKey(bytes(32))
    asked = Specialization(
        pod_uid="", request_id=ahead.REHEARSAL, spec_hash="", issued_at=pool.started, config=config, env={}
    )
    body = specialize.encode(asked, code=b"", payload=b"{}", sign=lambda message: key.sign(message).signature)
    verify = verifier(base64.b64encode(bytes(key.verify_key)).decode())
    received = specialize.read(body, pod_uid="", now=pool.started, agent_started=pool.started, verify=verify)
    config = received.specialization.config.replace(**pool.config.own())
    agent = Agent(config, pool.loop, pool.env, output=pool.output)
    agent.new_process(pool.api_port)
    pool.output.on_full = pool.pause_output
    ahead.order(environment.variables(config, pool.env, pool.api_port), config.handler, config.task_root)
    logs.end_lines("", duration_ms=0.0, memory_mib=0, max_memory_mib=procfs.peak_memory_mib(os.getpid()), init_ms=0.0)


def become_agent(pool: Pool, received: Received, began: float) -> None:
    """From now on `pool.agent` serves, and its runtime process starts. `began`: when the request was in, by `perf_counter`."""
    specialization = received.specialization
    config = specialization.config.replace(**pool.config.own())
    agent = Agent(
        config,
        pool.loop,
        {**pool.env, **specialization.env},
        output=pool.output,
        zipped=received.code,
        waiting=pool.waiting,
    )
    agent.readiness.whose = {
        "function": names.function_key(config.function_namespace, config.function_name),
        "specHash": specialization.spec_hash,
    }
    agent.specialized = began, time.perf_counter()
    pool.agent = agent
    for caller in pool.connections:
        caller.belong_to(agent)
    pool.connections.clear()
    pool.readiness.pass_on(agent.readiness)
    process = agent.take_over([pool.server, pool.api_server], pool.api_port)
    limit = config.max_response_bytes

    def hand_over() -> None:
        pool.api_server.hand_to(lambda: RuntimeApiProtocol(process, limit))
        for connection in pool.waiting.connections:
            connection.belong_to(process)
        pool.waiting.connections.clear()

    pool.waiting.hand_over_to(hand_over)
    if not _suits_running_interpreter(specialization.env, pool.env):
        pool.waiting.give_up()
    process.start(within_invocation=False)


def _suits_running_interpreter(own: dict[str, str], pool: Mapping[str, str]) -> bool:
    """Whether a process whose interpreter has started with the pool's variables is as good as one with the Function's."""
    return not any(
        specialize.is_read_at_start(name) and name not in launch.HARMLESS and pool.get(name) != value
        for name, value in own.items()
    )
