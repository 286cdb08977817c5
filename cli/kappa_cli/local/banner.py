"""What `kappa local up` prints once it serves: the functions' URLs, and commands to copy. Pure."""

from collections.abc import Mapping
from typing import Final

from kappa_cli.local.manifests.catalog import Entry, label
from kappa_cli.local.manifests.reading import Key

_SHOWN: Final = 20
"""Functions that are listed; the others are counted."""


def text(catalog: Mapping[Key, Entry], host: str, port: int, command: str = "kappa") -> str:
    """`command` is how the user's shell finds `kappa`."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    base = f"http://{shown}:{port}"
    runnable = [key for key, entry in catalog.items() if entry.workload is not None]
    several = "1 function" if len(catalog) == 1 else f"{len(catalog)} functions"
    lines = ["", f"Kappa serves {several} on {base}  (Ctrl-C stops it)", ""]
    width = max((len(label(*key)) for key in catalog), default=0)
    for (namespace, name), entry in list(catalog.items())[:_SHOWN]:
        what = f"{base}/fn/{namespace}/{name}" if entry.workload is not None else f"cannot run ({entry.reason})"
        lines.append(f"  {label(namespace, name):<{width}}  {what}  {entry.path}")
    if len(catalog) > _SHOWN:
        lines.append(f"  and {len(catalog) - _SHOWN} more")
    if runnable:
        namespace, name = runnable[0]
        lambda_name = label(namespace, name)
        gateway = "" if base == "http://127.0.0.1:8080" else f" --gateway {base}"
        lines += [
            "",
            "Try:",
            f'  curl {base}/2015-03-31/functions/{lambda_name}/invocations -d \'{{"name": "Ada"}}\'',
            f"  curl {base}/fn/{namespace}/{name}",
            f'  {command} invoke {lambda_name} -d \'{{"name": "Ada"}}\' --tail{gateway}',
        ]
    lines += ["", f"Edit a file and save: the next request runs it. The API: {base}/docs", ""]
    return "\n".join(lines)
