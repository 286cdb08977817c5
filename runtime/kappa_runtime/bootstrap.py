"""The runtime process of a Python function, until something asks for more of Lambda's client than the ordinary.

awslambdaric loads `json`, `logging`, `simplejson` and what they need before it asks for its first event, which is half of
what a function pod's processes do in a cold start. Few functions need it for their first answer. So the loop here serves
events of JSON whose handler returns plain values, with awslambdaric's own context object and connection, and **hands over
to awslambdaric for good** as soon as there is anything else: an error of any kind, a value that `json` and `simplejson`
could write differently, a client context, or a function that imports `logging` (whose root logger has Lambda's handler)
or parts of awslambdaric itself. From then on the process is what `python -m awslambdaric` is.

What was begun here is not run again there: awslambdaric is given the event together with what came of it.

This module's name matters: awslambdaric leaves the first frames, whose file is a `/bootstrap.py`, out of stack traces.
docs/decisions/0016 says what was weighed.
"""

from __future__ import annotations

import _json  # the part of `json` that needs no `re`
import _thread
import importlib
import marshal
import os
import sys

TYPE_CHECKING = False  # `typing` and `collections` would be loaded for annotations alone
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, NoReturn, TextIO

    Handler = Callable[[Any, Any], Any]
    Event = tuple[bytes, dict[str, Any]]
    """What the Runtime API's `next` gave: body and headers."""

KNOWN_VERSIONS = frozenset(("4.2.2",))
"""awslambdaric's, whose ordinary invocations are known to be as they are here; any other one does everything itself."""
ENSURE_ASCII = {
    "AWS_Lambda_python3.10": True,
    "AWS_Lambda_python3.11": True,
    "AWS_Lambda_python3.12": False,
    "AWS_Lambda_python3.13": False,
    "AWS_Lambda_python3.14": False,
}
"""The runtimes that are served here, and whether their answers escape what is not ASCII."""
UNUSUAL = ("AWS_LAMBDA_LOG_FORMAT", "AWS_LAMBDA_LOG_LEVEL", "_LAMBDA_TELEMETRY_LOG_FD", "AWS_LAMBDA_MAX_CONCURRENCY")
"""Variables that change how awslambdaric starts: with one of them it is there from the start."""
_OWN_PACKAGES = frozenset(("awslambdaric", "runtime_client", "simplejson", "snapshot_restore_py"))
_JSON = "application/json"


def main(handler: str) -> None:
    """Serve events until the process ends. `ahead` has no part in this: its process has loaded all there is to load."""
    if not serves(os.environ, sys.path[0]):
        whole(handler)
    Loop(handler).run()


def whole(handler: str) -> NoReturn:
    """awslambdaric, from its first line."""
    from awslambdaric import bootstrap
    from awslambdaric.lambda_runtime_client import LambdaRuntimeClient

    bootstrap.run(handler, LambdaRuntimeClient(os.environ["AWS_LAMBDA_RUNTIME_API"]))
    raise AssertionError("awslambdaric's loop has no end")


class Unbuffered:
    """What a function has as `sys.stdout` and `sys.stderr` on Lambda: each write is through when it returns."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __enter__(self) -> Unbuffered:
        return self

    def __exit__(self, *args: object) -> None:
        """It stays open."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        self.stream.writelines(lines)
        self.stream.flush()


def serves(env: Mapping[str, str], task_root: str) -> bool:
    """Whether the loop here may serve this function at all."""
    from awslambdaric import __version__

    if __version__ not in KNOWN_VERSIONS or env.get("AWS_EXECUTION_ENV") not in ENSURE_ASCII:
        return False
    if any(env.get(name) for name in UNUSUAL):
        return False
    try:
        own = {name.partition(".")[0] for name in os.listdir(task_root)}
    except OSError:
        return False
    # The function's json.py, say, would be found where awslambdaric has loaded the library's before
    return own.isdisjoint(sys.stdlib_module_names) and own.isdisjoint(_OWN_PACKAGES)


class Loop:
    """One function's loop. `whole` is awslambdaric's `bootstrap`, once it is loaded."""

    def __init__(self, handler: str) -> None:
        self.handler = handler
        self.whole: Any = None  # awslambdaric has no types
        self._path = sys.path[:]
        # not held while anything is imported: another thread that imports could wait for it, and this one for that
        self._setting_up = _thread.allocate_lock()
        self._request_id: str | None = None
        self._tenant_id: str | None = None
        import runtime_client

        runtime_client.initialize_client("")
        self._client = runtime_client
        self._context = lambda_context()
        self._encode = _ENCODERS[ENSURE_ASCII[os.environ["AWS_EXECUTION_ENV"]]]
        sys.stdout, sys.stderr = Unbuffered(sys.stdout), Unbuffered(sys.stderr)
        sys.meta_path.insert(0, Watcher(self))

    def run(self) -> None:
        """Raises only what ends a process: `SystemExit`, `KeyboardInterrupt`, a Runtime API that is gone."""
        handler = self.load()
        while self.whole is None:
            self.serve(self._client.next(), handler)
        self.hand_over(handler)

    def load(self) -> Handler:
        module_name, _, name = self.handler.rpartition(".")
        if not module_name or module_name.split(".")[0] in sys.builtin_module_names:
            self.hand_over(None)
        try:
            module = importlib.import_module(module_name.replace("/", "."))
        except Exception as error:
            # its first line has run and must not run again
            self.load_whole().importlib = Raising(error)
            self.hand_over(None)
        try:
            handler: Handler = getattr(module, name)
        except AttributeError:
            self.hand_over(None)
        return handler

    def serve(self, event: Event, handler: Handler) -> None:
        """One event: answered, or left to awslambdaric, and then this does not return."""
        body, headers = event
        # a thread of the function's may have loaded it while this waited
        if (
            self.whole is not None
            or headers.get("Content-Type") != _JSON
            or any(headers.get(name) for name in ("Lambda-Runtime-Client-Context", "Lambda-Runtime-Cognito-Identity"))
        ):
            self.hand_over(handler, event)
        try:
            value = loads(body)
        except Exception:
            self.hand_over(handler, event)
        request_id = self._request_id = headers.get("Lambda-Runtime-Aws-Request-Id")
        self._tenant_id = headers.get("Lambda-Runtime-Aws-Tenant-Id")
        trace(headers.get("Lambda-Runtime-Trace-Id"))
        try:
            answer = handler(
                value,
                self._context(
                    request_id,
                    None,
                    None,
                    headers.get("Lambda-Runtime-Deadline-Ms"),
                    headers.get("Lambda-Runtime-Invoked-Function-Arn"),
                    self._tenant_id,
                ),
            )
            content, content_type = self.marshal(answer)
        except Exception as error:
            self.hand_over(handler, event, error)
        self._client.post_invocation_result(
            request_id,
            # what has no encoding, a lone surrogate, ends the process on Lambda too
            content if isinstance(content, bytes) else content.encode(),
            content_type,
            headers.get("Lambda-Runtime-Invocation-Id"),
        )

    def marshal(self, answer: Any) -> tuple[str | bytes, str]:
        """Raises what awslambdaric raises for a value that is none of JSON's."""
        if self.whole is None:
            try:
                return dumps(answer, self._encode), _JSON
            except Exception:
                self.load_whole()
        from awslambdaric.lambda_runtime_client import LambdaRuntimeClient

        marshalled: tuple[str | bytes, str] = LambdaRuntimeClient.marshaller.marshal_response(answer)
        return marshalled

    def load_whole(self) -> Any:
        """Load awslambdaric, and give the root logger its handler, as it does before a function's first line."""
        if self.whole is not None:
            return self.whole
        for finder in sys.meta_path[:]:
            if isinstance(finder, Watcher):
                sys.meta_path.remove(finder)
        path, sys.path = sys.path, self._path
        initialize, self._client.initialize_client = self._client.initialize_client, lambda name: None
        try:
            from awslambdaric import bootstrap
        finally:
            sys.path = path
            self._client.initialize_client = initialize
        with self._setting_up:
            if self.whole is None:
                bootstrap._GLOBAL_AWS_REQUEST_ID = self._request_id
                bootstrap._GLOBAL_TENANT_ID = self._tenant_id
                bootstrap._setup_logging(
                    bootstrap._AWS_LAMBDA_LOG_FORMAT, bootstrap._AWS_LAMBDA_LOG_LEVEL, bootstrap.StandardLogSink()
                )
                self.whole = bootstrap
        return bootstrap

    def hand_over(
        self, handler: Handler | None, event: Event | None = None, error: BaseException | None = None
    ) -> NoReturn:
        """awslambdaric's loop from here on: first with this event, if any, of which this error came, if any.

        Without a handler it looks for it itself, and says what is wrong with it.
        """
        bootstrap = self.load_whole()
        from awslambdaric import lambda_runtime_client

        bootstrap._setup_logging = lambda *args: None
        bootstrap.Unbuffered = lambda stream: stream  # they are
        if handler is not None:
            bootstrap._get_handler = lambda name: handler
        client = lambda_runtime_client.LambdaRuntimeClient(os.environ["AWS_LAMBDA_RUNTIME_API"])
        if event is not None:
            lambda_runtime_client.runtime_client = Given(event, lambda_runtime_client)
        if error is not None:
            client.marshaller = Raising(error, client)
        bootstrap.run(self.handler, client)
        raise AssertionError("awslambdaric's loop has no end")


class Given:
    """Takes the place of the Runtime API's connection in awslambdaric for one event, which is this one."""

    def __init__(self, event: Event, module: Any) -> None:
        self._event = event
        self._module = module
        self._client = module.runtime_client

    def next(self) -> Event:
        self._module.runtime_client = self._client
        return self._event


class Raising:
    """Takes the place of what awslambdaric calls where the error would have come: `importlib`, or once the marshaller."""

    def __init__(self, error: BaseException, client: Any = None) -> None:
        self._error = error
        self._client = client

    def import_module(self, name: str) -> NoReturn:
        raise self._error

    def unmarshal_request(self, *args: object) -> NoReturn:
        del self._client.marshaller
        raise self._error


class Watcher:
    """A finder that notices when the function imports what awslambdaric would have loaded and set up before it."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._path = sys.path[:]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in ("logging", "simplejson") and not name.startswith("awslambdaric."):
            return None
        # what it imports itself is not watched: the outermost of them has to be complete first
        sys.meta_path.remove(self)
        from importlib.machinery import PathFinder

        # a library of the function's that came to the path since does not come before the ones of the start
        spec = PathFinder.find_spec(name, self._path if path is None else path, target)
        if spec is None or spec.loader is None:
            return None
        loader = spec.loader

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            try:
                loader.exec_module(module)
            except BaseException:
                sys.meta_path.insert(0, self)
                raise
            self._loop.load_whole()

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def lambda_context() -> Any:
    """awslambdaric's context class, whose module needs `logging` for one method only."""

    class Later(type(sys)):  # type: ignore[misc]  # mypy wants `types` for it
        """`logging`, once it is asked for something."""

        def __getattr__(self, name: str) -> Any:
            import logging

            from awslambdaric import lambda_context

            lambda_context.logging = logging
            return getattr(logging, name)

    sys.modules["logging"] = Later("logging")
    try:
        from awslambdaric.lambda_context import LambdaContext
    finally:
        del sys.modules["logging"]
    return LambdaContext


def trace(trace_id: str | None) -> None:
    if trace_id is not None:
        os.environ["_X_AMZN_TRACE_ID"] = trace_id
    else:
        os.environ.pop("_X_AMZN_TRACE_ID", None)


class _Decoding:
    """How `_json` reads: as `simplejson` does, which knows no NaN."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> NoReturn:
        raise ValueError(name)


_scan = _json.make_scanner(_Decoding)  # type: ignore[arg-type]  # json gives it a JSONDecoder, of which it reads these
_WHITESPACE = " \t\n\r"


def loads(body: bytes) -> Any:
    """The value of a JSON text. Raises `Exception` of any kind where it is none, or none that is read here."""
    text = body.decode()
    content = text.strip(_WHITESPACE)
    value, end = _scan(content, 0)
    if end != len(content):
        raise ValueError
    return value


def encoder(ensure_ascii: bool) -> Callable[[Any, int], Sequence[str]]:
    """`json`'s encoder without `json`: from a value, and 0, to the parts of its text."""
    strings = _json.encode_basestring_ascii if ensure_ascii else _json.encode_basestring
    made: Callable[[Any, int], Sequence[str]] = _json.make_encoder(
        None, _not_plain, strings, None, ": ", ", ", False, False, True
    )
    return made


def _not_plain(value: object) -> NoReturn:
    raise TypeError(type(value).__name__)


def dumps(value: Any, encode: Callable[[Any, int], Sequence[str]]) -> str:
    """The JSON text of a plain value. Raises `Exception` of any kind where it is not plain."""
    # It takes exactly the built-in types: not a named tuple, say, which simplejson writes as an object. Its version 2 also
    # refuses a value that contains itself.
    marshal.dumps(value, 2)
    return "".join(encode(value, 0))


_ENCODERS = {ensure_ascii: encoder(ensure_ascii) for ensure_ascii in (True, False)}
"""Made with the module: where `_json` takes other arguments, it cannot be imported, and `__main__` does without it."""
