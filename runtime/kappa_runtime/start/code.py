"""Inline code into the task root. Imported before anything heavy is, so it imports nothing heavy itself."""

import os

UNREADABLE = "Kappa.CodeUnreadable"
"""The error type of code that cannot be read; `reasons.CODE_UNREADABLE` is the condition."""


class CodeUnreadable(Exception):
    """The code is not where it should be, or not what it should be; the message says what, where and how to mend it."""


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
