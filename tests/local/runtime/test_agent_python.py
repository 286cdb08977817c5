"""A Python function cannot tell whether its process is a fork of the agent or a new interpreter."""

import re
from typing import Any

import pytest

from kappa_core import wire

OWN_INTERPRETER = {"PYTHONNOUSERSITE": "1"}
"""A function with a PYTHON* variable gets an interpreter of its own."""

RAISES = """
def inner(event):
    raise ValueError("no " + str(event))

def handler(event, context):
    try:
        {}["missing"]
    except KeyError:
        inner(event)
"""
FUNCTIONS = {
    "plain": "def handler(event, context):\n    print('in', event)\n    return {'é': [event, 1.5, None], 2: (True,)}",
    "context": """
def handler(event, context):
    import os
    return [
        sorted(vars(context)), context.aws_request_id, context.function_name, context.memory_limit_in_mb,
        context.identity is None, context.client_context, context.invoked_function_arn, context.w3c(),
        type(context).__module__, type(context).__name__,
        0 < context.get_remaining_time_in_millis() < 60000, os.environ["_X_AMZN_TRACE_ID"],
    ]
""",
    "context.log": "def handler(event, context):\n    context.log('logged\\n')\n    print('printed')\n    return event",
    "raises": RAISES,
    "raises in a comprehension": "def handler(event, context):\n    return [1 / n for n in (1, 0)]",
    "raises without a message": "class Odd(Exception):\n    pass\n\ndef handler(event, context):\n    raise Odd",
    "decimal": """
from decimal import Decimal
def handler(event, context):
    return {'d': Decimal('1.50'), 'n': Decimal('NaN')}
""",
    "named tuple": """
import collections
P = collections.namedtuple('P', 'x y')
def handler(event, context):
    return [P(1, 2)]
""",
    "bytes": "def handler(event, context):\n    return b'raw'",
    "no JSON": "def handler(event, context):\n    return {'a': object}",
    "a ring": "def handler(event, context):\n    a = []\n    a.append(a)\n    return a",
    "logging": """
import logging
log = logging.getLogger()
log.setLevel(logging.INFO)
log.info("at import")

def handler(event, context):
    log.info("in the handler %s", event)
    logging.getLogger("other").warning("other")
    return [len(log.handlers), type(log.handlers[0]).__name__]
""",
    "logging late": """
def handler(event, context):
    import logging
    logging.warning("first import here")
    return [len(logging.getLogger().handlers), logging.getLogger("x").getEffectiveLevel()]
""",
    "logging late, then an error": """
def handler(event, context):
    import logging
    logging.error("first import here")
    raise RuntimeError("after it")
""",
    "logging and an import error": "import logging\nlogging.error('said')\nimport nowhere\n",
    "exits": "import sys\ndef handler(event, context):\n    print('bye')\n    sys.exit(3)",
    "import error": "print('once')\nimport nowhere.at_all\n",
    "error at import": "print('once')\ndef fails():\n    raise RuntimeError('at import')\nfails()\n",
    "syntax error": "def handler(event, context)\n    return 1\n",
    "no handler": "print('once')\n",
    "exits at import": "import sys\nprint('once')\nsys.exit(4)\n",
    "a marshaller of its own": """
from awslambdaric.lambda_runtime_client import BaseLambdaRuntimeClient
from awslambdaric.lambda_runtime_marshaller import LambdaMarshaller

class Own(LambdaMarshaller):
    def marshal_response(self, response):
        return '{"own": true}', "application/json"

BaseLambdaRuntimeClient.marshaller = Own()

def handler(event, context):
    return event
""",
    "awslambdaric's bootstrap": """
from awslambdaric import bootstrap
import logging

def handler(event, context):
    return [bootstrap.__name__, len(logging.getLogger().handlers), bootstrap._GLOBAL_AWS_REQUEST_ID]
""",
    "simplejson": "import simplejson\ndef handler(event, context):\n    return simplejson.loads('[1.5]')",
    "stdout": """
import sys
def handler(event, context):
    print('a', end='')
    sys.stderr.write('b')
    sys.stdout.writelines(['c', 'd\\n'])
    return [type(sys.stdout).__name__, sys.stdout.fileno()]
""",
    "a thread that logs between events": """
import threading

asked, logged = threading.Event(), threading.Event()

def work():
    asked.wait()
    import logging
    logging.getLogger().handlers[0].addFilter(lambda record: True)
    logged.set()

threading.Thread(target=work, daemon=True).start()
served = []

def handler(event, context):
    served.append(event)
    if len(served) == 1:
        threading.Timer(0, asked.set).start()
        return "first"
    logged.wait()
    import logging
    logging.warning("in the second")
    return len(logging.getLogger().handlers)
""",
    "a thread that logs": """
import threading

def work():
    import logging
    logging.warning("from a thread")

def handler(event, context):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return "done"
""",
}
BODIES = [b'{"name": "world"}', b' [1, "\xc3\xa9"] ', b"no JSON", b"[NaN]", b"", b'"second"']


def seen(agents: Any, code: str, env: dict[str, str], handler: str = "main.handler") -> list[Any]:
    """What callers and the log get to see of some invocations."""
    agent = agents.start(code, env=env, handler=handler)
    found: list[Any] = []
    for number, body in enumerate(BODIES):
        headers = {"Kappa-Request-Id": f"r-{number}", "X-Amz-Log-Type": "Tail", "X-Amzn-Trace-Id": "Root=1-2-3"}
        if number == 5:
            headers["X-Amz-Client-Context"] = "eyJjdXN0b20iOiB7ImEiOiAxfX0="
        reply = agent.request("POST", "/2015-03-31/functions/function/invocations", body, headers)
        tail = reply.log if wire.LOG_RESULT in reply.headers else None
        found.append((reply.status, reply.error, reply.headers.get("Content-Type"), reply.body.decode(), tail))
    agent.stop()
    log = agent.log
    # how often a process that ends is started again before the agent stops depends on time; the lines do not
    found.append(sorted(set(without_times(log).splitlines())) if "ExitError" in log or "INIT_REPORT" in log else log)
    return [without_times(str(one)) for one in found]


def without_times(text: str) -> str:
    text = re.sub(r"\d+-\d+-\d+T\d+:\d+:\d+(\.\d+)?Z", "TIME", text)
    text = re.sub(r"(Duration: |Max Memory Used: )[\d.]+", r"\1N", text)
    text = re.sub(r"task\d+", "task", text)
    return re.sub(r"\d+(\.\d+)? (milli)?seconds", "N seconds", text)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_cannot_tell_how_its_process_started(name: str, agents: Any) -> None:
    assert seen(agents, FUNCTIONS[name], {}) == seen(agents, FUNCTIONS[name], OWN_INTERPRETER)


@pytest.mark.parametrize("env", [{}, OWN_INTERPRETER], ids=["forked", "own interpreter"])
def test_an_answer_that_has_no_encoding_ends_the_process(env: dict[str, str], agents: Any) -> None:
    agent = agents.start("def handler(event, context):\n    return '\\ud800' if event else 'fine'\n", env=env)
    assert agent.invoke(0).json == "fine"
    reply = agent.invoke(1)
    assert (reply.error, reply.json["errorType"]) == ("Unhandled", "Runtime.ExitError")
    assert "UnicodeEncodeError" in agent.log
    assert agent.invoke(0).json == "fine"


@pytest.mark.parametrize("handler", ["nodot", "sys.exit", "main.missing", "a.b.c", ".handler", "main/handler.x"])
def test_a_bad_handler_is_reported_alike(handler: str, agents: Any) -> None:
    code = "def handler(event, context):\n    return 1\n"
    alike = [seen(agents, code, env, handler) for env in ({}, OWN_INTERPRETER)]
    assert alike[0] == alike[1]


LOADED = """
def handler(event, context):
    import sys
    return [name in sys.modules for name in ("awslambdaric.bootstrap", "logging", "simplejson", "json", "re")]
"""


@pytest.mark.parametrize("env", [{}, OWN_INTERPRETER], ids=["forked", "own interpreter"])
def test_lambdas_client_is_complete_before_the_functions_first_line(env: dict[str, str], agents: Any) -> None:
    agent = agents.start(LOADED, env=env)
    assert agent.invoke().json == [True] * 5
