"""Agent processes and a gateway's sink that do what a test says; no process is started."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from kappa_cli.local.processes.agent_process import AgentProcess, Ending
from kappa_cli.local.processes.launch import Launch
from kappa_cli.local.processes.readiness import Readiness
from kappa_core.function import Function
from kappa_gateway.pods.platform import Pod, PoolPod


class Sink:
    """What the gateway knows."""

    def __init__(self) -> None:
        self.pods: dict[str, Pod] = {}
        self.pool_pods: dict[str, PoolPod] = {}
        """By uid."""
        self.function: Function | None = None

    def put_function(self, function: Function) -> None:
        self.function = function

    def put_pod(self, pod: Pod) -> None:
        self.pods[pod.name] = pod

    def remove_pod(self, namespace: str, name: str) -> None:
        del self.pods[name]

    def put_pool_pod(self, pod: PoolPod) -> None:
        self.pool_pods[pod.uid] = pod

    def remove_pool_pod(self, namespace: str, name: str) -> None:
        self.pool_pods = {uid: pod for uid, pod in self.pool_pods.items() if pod.name != name}


class Process(AgentProcess):
    """An agent that does what the test says."""

    def __init__(self, name: str, folder: Path, on_line: Callable[[str], None]) -> None:
        super().__init__(name, folder, on_line)
        self.on_line = on_line
        self._end: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._on_change: Callable[[], None] = lambda: None

    def start(self, launch: Launch, on_change: Callable[[], None]) -> None:
        self._on_change = on_change

    async def ended(self) -> Ending:
        return await self._end

    def terminate(self, within: float) -> None:
        self.stopping = True

    def kill(self) -> None:
        self.stopping = True
        self.end("was killed by signal 9")

    def becomes(self, readiness: Readiness) -> None:
        self.port, self.readiness = 1234, readiness
        self._on_change()

    def end(self, how: str, lived: float = 1.0) -> None:
        self._end.set_result(Ending(how, lived))
