"""A function's code on its way into the task root: inline, an archive in hand, or one to fetch."""

from __future__ import annotations

import os

from kappa_core.agent_config import AgentConfig
from kappa_runtime.start.child import Child

TYPE_CHECKING = False  # see `kappa_runtime.imports`
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UNREADABLE = "Kappa.CodeUnreadable"
"""The error type of code that cannot be read; `reasons.CODE_UNREADABLE` is the condition."""


class CodeUnreadable(Exception):
    """The code is not where it should be, or not what it should be; the message says what, where and how to mend it."""


class FunctionCode:
    def __init__(
        self,
        config: AgentConfig,
        env: Mapping[str, str],
        fetch: Callable[[Mapping[str, str], bool], Child],
        unpack: Callable[[], None] | None = None,
    ) -> None:
        """`fetch`: starts the process that fetches, with variables and with `parent_death`; raises `OSError`.
        `unpack`: of an archive in hand; raises `CodeUnreadable`."""
        self.url = config.code_archive_url
        self.ready = not self.url or unpack is not None
        """Nothing has to be fetched, or it was."""
        self._config = config
        self._env = env
        self._start_fetch = fetch
        self._unpack = unpack

    def place(self) -> None:
        """Put it into the task root, unless it is mounted or was fetched. Raises `CodeUnreadable`."""
        config = self._config
        if config.code_inline:
            write_inline(config.code_inline, config.handler, config.task_root)
        elif self._unpack is not None:
            self._unpack()
            self._unpack = None

    def fetch(self) -> Child:
        """Fetch and unpack it in a process of its own, whose memory and threads end with it. Raises `OSError`."""
        return self._start_fetch({**self._env, **self._config.to_env()}, self._config.parent_death)

    def fetched(self) -> None:
        """That process has succeeded."""
        self.ready = True


def module_path(handler: str) -> str:
    """The file, relative to the task root, that a handler names: `main.handler` → `main.py`, `pkg/mod.handler` and
    `pkg.mod.handler` → `pkg/mod.py`. Raises `CodeUnreadable`."""
    module, dot, function = handler.rpartition(".")
    parts = module.replace(".", "/").split("/")
    if not dot or not function or not all(part.isidentifier() or _is_file_name(part) for part in parts):
        raise CodeUnreadable(
            f"the handler {handler!r} names no module to save the inline code as: write module.function,"
            " such as main.handler"
        )
    return "/".join(parts) + ".py"


def _is_file_name(part: str) -> bool:
    return bool(part) and part.replace("-", "_").isidentifier()


def write_inline(source: str, handler: str, task_root: str) -> None:
    """Save inline code as the handler's module. Raises `CodeUnreadable`."""
    path = os.path.join(task_root, module_path(handler))
    try:
        content = source.encode()
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            _write(path, "xb", content)
        except FileExistsError:
            # another process may be about to import it: it finds the old or the new module, never half of one
            with open(path, "rb") as file:
                if file.read() == content:
                    return
            _write(f"{path}.new", "wb", content)
            os.replace(f"{path}.new", path)
    except (OSError, UnicodeError) as error:
        raise CodeUnreadable(f"the inline code cannot be saved as {path}: {error}") from None


def _write(path: str, mode: str, content: bytes) -> None:
    with open(path, mode, buffering=0) as file:
        while content:
            content = content[file.write(content) :]
