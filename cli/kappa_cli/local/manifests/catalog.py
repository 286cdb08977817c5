"""What is served, computed from what the files declare: every Function with its generation and its Ready condition.

Pure, except that it reads the folders with ConfigMap code.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kappa_cli.local.manifests.reading import Key, Manifests
from kappa_cli.local.manifests.ready_status import placeholder, with_generation, with_ready
from kappa_cli.local.manifests.workload import Unresolvable, Workload, resolve
from kappa_core.function import Function
from kappa_core.function.status import FunctionStatus
from kappa_core.reasons import Reason


@dataclass(frozen=True, slots=True)
class Entry:
    """One Function of the files, as it is served."""

    function: Function
    workload: Workload | None
    """None: it cannot run; `reason` and `message` say why, and so does its Ready condition."""
    path: Path
    reason: Reason = Reason.DEPLOYED
    message: str = "its manifest and code were read; processes start with invocations"

    def same_as(self, other: "Entry") -> bool:
        """Whether nothing changed but the generation and the status."""
        return (
            _bare(self.function) == _bare(other.function)
            and _revision(self.workload) == _revision(other.workload)
            and (self.reason, self.message) == (other.reason, other.message)
        )


Catalog = Mapping[Key, Entry]


def label(namespace: str, name: str) -> str:
    """How the terminal names a function: as the Lambda API does, without the namespace `default`."""
    return name if namespace == "default" else f"{namespace}.{name}"


def build(manifests: Manifests, before: Catalog) -> dict[Key, Entry]:
    """Everything to serve from now on; `before` is the previous catalog."""
    catalog = {}
    for entry in _entries(manifests, before):
        key = (entry.function.metadata.namespace, entry.function.metadata.name)
        old = before.get(key)
        if old is not None and entry.same_as(old):
            catalog[key] = old
            continue
        generation = old.function.metadata.generation + 1 if old else 1
        function = with_ready(with_generation(entry.function, generation), entry.reason, entry.message)
        workload = replace(entry.workload, function=function) if entry.workload else None
        catalog[key] = replace(entry, function=function, workload=workload)
    return catalog


def remarks(catalog: Catalog) -> Iterator[str]:
    """What a user should know about functions whose manifests are valid."""
    for (namespace, name), entry in catalog.items():
        if entry.workload is None and entry.reason is not Reason.INVALID_SPEC:
            yield f"{label(namespace, name)} cannot run: {entry.message}"
        elif entry.workload is not None and (line := _other_python(entry.function)):
            yield line


def _entries(manifests: Manifests, before: Catalog) -> Iterator[Entry]:
    for key, declared in manifests.functions.items():
        if declared.function is None:
            stand_in = placeholder(*key)
            if stand_in is not None:  # otherwise it has no valid name to be invoked by; its problem is reported
                message = "; ".join(str(problem) for problem in declared.problems)
                yield Entry(stand_in, None, declared.path, Reason.INVALID_SPEC, message)
            continue
        try:
            workload = resolve(declared, manifests)
        except Unresolvable as error:
            yield Entry(declared.function, None, declared.path, error.reason, error.message)
        except OSError as error:
            message = f"its code cannot be read: {error}"
            yield Entry(declared.function, None, declared.path, Reason.CODE_UNREADABLE, message)
        else:
            yield Entry(declared.function, workload, declared.path)
    for key, entry in before.items():
        problem = manifests.unreadable.get(entry.path)
        if key not in manifests.functions and problem is not None:
            yield Entry(entry.function, None, entry.path, Reason.INVALID_SPEC, str(problem))


def _other_python(function: Function) -> str:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = (function.spec.runtime or "").removeprefix("python")
    if wanted in ("", here, "3"):
        return ""
    name = label(function.metadata.namespace, function.metadata.name)
    return f"{name} names Python {wanted} and runs on {here} here, the Python that runs kappa"


def _bare(function: Function) -> Function:
    metadata = function.metadata.model_copy(update={"generation": 0})
    return function.model_copy(update={"status": FunctionStatus(), "metadata": metadata})


def _revision(workload: Workload | None) -> str:
    return workload.revision if workload else ""
