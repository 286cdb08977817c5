"""A Python that looks like one on macOS: what Linux alone has is missing, and so is awslambdaric's native module."""

import os
import sys
from pathlib import Path

WITHOUT_NATIVE_CLIENT = """
sys.modules["runtime_client"] = None
"""
PORTABLE = """
import select, sysconfig
sysconfig.get_config_vars()  # read from a file that the platform names
sys.platform = "darwin"
# where urllib.request asks macOS for proxies
sys.modules["_scproxy"] = scproxy = type(sys)("_scproxy")
scproxy._get_proxies = scproxy._get_proxy_settings = dict
for module, names in ((os, ("pipe2", "waitid", "closerange", "memfd_create")), (select, ("epoll",))):
    for name in names:
        delattr(module, name)
import selectors
selectors.DefaultSelector = getattr(selectors, "{selector}")
real_open = os.open
def open_nothing_of_proc(path, *args, **more):
    assert not str(path).startswith("/proc"), path
    return real_open(path, *args, **more)
os.open = open_nothing_of_proc
"""
_SCRIPT = """#!{python} -P
import os, sys
sys.executable = __file__
{changes}
import runpy
sys.argv = sys.argv[sys.argv.index("-m") + 1 :]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def python(folder: Path, *changes: str, selector: str = "SelectSelector") -> str:
    """The path of a program that stands for this Python, and so do those that it starts by `sys.executable`.

    It takes `-m MODULE ARGUMENTS`; options before that are ignored, and -P is always on. `changes`: what it runs first.
    """
    path = folder / "other-python"
    path.write_text(_SCRIPT.format(python=sys.executable, changes="".join(changes).format(selector=selector)))
    os.chmod(path, 0o755)
    return str(path)
