"""A function's code on its way into the task root: inline, an archive in hand, or one to fetch."""

from __future__ import annotations

from kappa_core.agent_config import AgentConfig
from kappa_runtime.start import code
from kappa_runtime.start.child import Child

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class FunctionCode:
    def __init__(
        self,
        config: AgentConfig,
        env: Mapping[str, str],
        fetch: Callable[[Mapping[str, str], bool], Child],
        zipped: bytes = b"",
    ) -> None:
        """`fetch`: starts the process that fetches, with variables and with `parent_death`; raises `OSError`.
        `zipped`: the archive itself."""
        self.url = config.code_archive_url
        self.ready = not self.url or bool(zipped)
        """Nothing has to be fetched, or it was."""
        self._config = config
        self._env = env
        self._start_fetch = fetch
        self._zip = zipped

    def place(self) -> None:
        """Put it into the task root, unless it is mounted or was fetched. Raises `code.CodeUnreadable`."""
        config = self._config
        if config.code_inline:
            code.write_inline(config.code_inline, config.handler, config.task_root)
        elif self._zip:
            from kappa_runtime.start import archive

            archive.unpack_bytes(self._zip, config.task_root, config.code_archive_url)
            self._zip = b""

    def fetch(self) -> Child:
        """Fetch and unpack it in a process of its own, whose memory and threads end with it. Raises `OSError`."""
        return self._start_fetch({**self._env, **self._config.to_env()}, self._config.parent_death)

    def fetched(self) -> None:
        """That process has succeeded."""
        self.ready = True
