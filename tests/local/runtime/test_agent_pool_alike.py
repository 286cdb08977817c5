"""What a function sees after a start from a pool is what it sees after an ordinary one."""

import json
import signal

import pytest

PROBE = r"""
import gc, json, locale, logging, os, resource, signal, sys, threading, time, warnings

def stream(name):
    one = getattr(sys, name)
    inner = getattr(one, "stream", one)
    return {
        "type": type(one).__name__, "inner": type(inner).__name__, "encoding": inner.encoding, "errors": inner.errors,
        "write_through": getattr(inner, "write_through", None), "line": inner.line_buffering, "fd": inner.fileno(),
        "buffer": type(inner.buffer).__name__, "newlines": inner.newlines,
        "dunder": type(getattr(sys, f"__{name}__")).__name__,
    }

def descriptors():
    found = {}
    for fd in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]
        except OSError:
            pass
    return found

def look():
    return {
        "environ": dict(os.environ),
        "path": sys.path, "argv": sys.argv, "cwd": os.getcwd(), "orig_argv": len(sys.orig_argv) > 0,
        "stdout": stream("stdout"), "stderr": stream("stderr"), "stdin": sys.stdin.read(),
        "stdin fd": os.readlink("/proc/self/fd/0"),
        "signals": {int(n): str(signal.getsignal(n)) for n in signal.valid_signals()},
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "wakeup": signal.set_wakeup_fd(-1),
        "ignored": [l for l in open("/proc/self/status")
                    if l.startswith(("SigIgn", "SigCgt", "SigBlk", "Umask", "NoNewPrivs", "Threads"))],
        "zone": [time.tzname, time.timezone, time.localtime(0).tm_hour],
        "main": [sys.modules["__main__"].__name__, sys.modules["__main__"].__file__],
        "fds": descriptors(),
        "gc": [gc.isenabled(), gc.get_threshold()],
        "group": os.getpgrp() == os.getpid(), "session": os.getsid(0) == os.getpid(),
        "oom": open("/proc/self/oom_score_adj").read(), "nice": os.nice(0),
        "flags": str(sys.flags), "bytecode": sys.dont_write_bytecode,
        "locale": locale.getlocale(), "fsenc": sys.getfilesystemencoding(),
        "root logger": [logging.getLogger().level, [type(h).__name__ for h in logging.getLogger().handlers]],
        "formatter": [type(h.formatter).__name__ for h in logging.getLogger().handlers],
        "warnings": [str(f) for f in warnings.filters],
        "threads": threading.active_count(),
        "finders": [getattr(f, "__name__", type(f).__name__) for f in sys.meta_path], "hooks": len(sys.path_hooks),
        "recursion": sys.getrecursionlimit(), "limits": [resource.getrlimit(n) for n in range(10)],
        "excepthook": sys.excepthook is sys.__excepthook__, "module": [__name__, __file__, __spec__.origin, __cached__],
        "ours": sorted(n for n in sys.modules
                       if n.startswith(("nacl", "httptools", "_cffi", "obstore", "kappa_rehearsal"))),
    }

AT_IMPORT = look()

def handler(event, context):
    names = ("function_name", "memory_limit_in_mb", "invoked_function_arn", "function_version")
    return json.loads(json.dumps([AT_IMPORT, look(), {n: getattr(context, n) for n in names}]))
"""


IMAGE = {"LANG": "C.UTF-8", "IN_THE_IMAGE": "yes"}
"""Variables of the image, which a pool pod has too."""


def without_what_must_differ(seen, task_root):
    """Ports, times, and the folder that is another one in each test agent."""
    for one in seen[:2]:
        for name in ("AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_LOG_STREAM_NAME", "_X_AMZN_TRACE_ID"):
            one["environ"].pop(name, None)
    # the connection to the Runtime API is made with the rehearsal, by an ordinary start after its imports
    at_import = seen[0]["fds"]
    seen[0]["fds"] = {fd: kind for fd, kind in at_import.items() if kind != "socket"}
    seen[1]["fds"] = sorted(seen[1]["fds"].values())
    return json.loads(json.dumps(seen).replace(str(task_root), "TASK"))


def differences(ordinary, pooled):
    return {
        f"{when} {name}": (one.get(name), other.get(name))
        for when, one, other in zip(("at import", "in handler", "context"), ordinary, pooled, strict=True)
        for name in one.keys() | other.keys()
        if one.get(name) != other.get(name)
    }


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"TZ": "Europe/Berlin", "PATH": "/mine", "GREETING": "hällo\n", "AWS_REGION": "eu-west-1"},
        {"AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": "DEBUG"},
        {"PYTHONPATH": "/somewhere", "LC_ALL": "C"},
        {"PYTHONUNBUFFERED": "", "PYTHONDONTWRITEBYTECODE": "1"},
    ],
    ids=["plain", "own", "logging", "interpreter", "harmless"],
)
def test_a_function_cannot_tell(agents, env):
    ordinary = agents.start(PROBE, env=IMAGE | env)
    first = ordinary.invoke()
    pooled = agents.start_pool(env=IMAGE)
    second = pooled.specialize(PROBE, env=env, headers={"Kappa-Request-Id": "r-1"})
    assert second.error is None, second.body
    assert (
        differences(
            without_what_must_differ(first.json, agents.folder / "task0"),
            without_what_must_differ(second.json, pooled.task_root),
        )
        == {}
    )


@pytest.mark.parametrize("env", [{}, {"PYTHONPATH": "/somewhere"}], ids=["forked", "interpreter"])
def test_a_function_ignores_no_signal_that_the_agents_own_start_ignored(agents, env):
    """As where a shell's `&` or nohup started it."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        agent = agents.start(PROBE, env=env)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _, in_handler, _ = agent.invoke().json
    seen = [in_handler["signals"][str(int(number))] for number in numbers]
    assert "default_int_handler" in seen[1]
    assert [seen[0], seen[2]] == ["0", "0"], seen
