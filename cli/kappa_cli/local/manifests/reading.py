"""Reads manifests from files: Functions, and the ConfigMaps and Secrets that they use."""

import base64
import binascii
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from kappa_cli.local.manifests import problems
from kappa_cli.local.manifests.problems import Problem
from kappa_cli.local.manifests.yaml_source import Document, YamlError, documents
from kappa_core import names
from kappa_core.function import Function

SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""A manifest cannot be larger than a Kubernetes object, 1.5 MB; a file may hold a few."""
SKIPPED_FOLDERS: Final = frozenset({"__pycache__", "node_modules", "venv"})
_DATA_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}")
"""What Kubernetes accepts as a key of a ConfigMap or Secret. It becomes a file name, so nothing else may pass."""
Key = tuple[str, str]
"""(namespace, name)"""


@dataclass(frozen=True, slots=True)
class Declared:
    """A Function that a manifest declares; `function` is None where the manifest is invalid."""

    key: Key
    path: Path
    function: Function | None
    problems: tuple[Problem, ...] = ()


@dataclass(slots=True)
class Manifests:
    """All that was read."""

    functions: dict[Key, Declared] = field(default_factory=dict)
    config_maps: dict[Key, dict[str, bytes]] = field(default_factory=dict)
    secrets: dict[Key, dict[str, bytes]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    """Every problem of every file."""
    unreadable: dict[Path, Problem] = field(default_factory=dict)
    """Files that could not be read to their end. What they declared before may still be intended."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Kind → how many documents of it were ignored, because local mode has no use for them."""


class NoSuchPath(Exception):
    """A path of the command line that does not exist."""


def find(paths: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """(file, whether the file itself was named) for each manifest under the paths, each file once, in a stable order.

    Folders are searched recursively, except hidden ones and those of tools. Raises `NoSuchPath`.
    """
    seen: set[Path] = set()
    for path in paths:
        if path.is_dir():
            found = [(file, False) for file in _walk(path)]
        elif path.exists():
            found = [(path, True)]
        else:
            raise NoSuchPath(f"{path} does not exist: name a manifest, or a folder with manifests")
        for file, named in found:
            if (real := file.resolve()) not in seen:
                seen.add(real)
                yield file, named


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in SKIPPED_FOLDERS)
        for name in sorted(files):
            if Path(name).suffix in SUFFIXES and not name.startswith("."):
                yield Path(parent, name)


def read(paths: Sequence[Path], known: Collection[Path] = ()) -> Manifests:
    """Read every manifest under the paths. What is wrong with a file is in `problems`. Raises `NoSuchPath`.

    `known` are files that held manifests before; they are treated as if `paths` named them.
    """
    manifests = Manifests()
    for path, chosen in find(paths):
        named = chosen or path in known
        try:
            size = path.stat().st_size
            if size > MAX_FILE_BYTES and not named:
                continue
            if size > MAX_FILE_BYTES:
                raise ValueError(f"{size:,} bytes are too many for a manifest: at most {MAX_FILE_BYTES:,}")
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            problem = Problem(str(path), f"this is not UTF-8 text (byte {error.start}): save it as UTF-8")
        except (OSError, ValueError) as error:
            problem = Problem(str(path), getattr(error, "strerror", None) or str(error))
        else:
            add(manifests, path, text, named=named)
            continue
        manifests.problems.append(problem)
        manifests.unreadable[path] = problem
    return manifests


def add(manifests: Manifests, path: Path, text: str, *, named: bool = True) -> None:
    """Add what the text of one file declares. In a file that was only found (`named` False), documents that are not
    Kubernetes objects are ignored: a folder may hold a `package.json`."""
    several = text.count("\n---") > 0
    try:
        for document in documents(text):
            _add_document(manifests, path, document, several=several, named=named)
    except YamlError as error:
        problem = Problem(str(path), error.message, error.line, error.document if several else None)
        if named or names.GROUP in text:
            manifests.problems.append(problem)
            manifests.unreadable[path] = problem


def _add_document(manifests: Manifests, path: Path, document: Document, *, several: bool, named: bool) -> None:
    def problem(location: Sequence[str | int], message: str) -> Problem:
        number = document.number if several else None
        return Problem(str(path), message, document.line(location), number, problems.field_name(location))

    value = document.value
    api_version, kind = (value.get("apiVersion"), value.get("kind")) if isinstance(value, dict) else (None, None)
    if not kind or not api_version:
        if named or kind == names.KIND:
            missing = "kind" if not kind else "apiVersion"
            manifests.problems.append(problem((), f"this is not a manifest: it has no {missing}"))
        return
    if kind == names.KIND and str(api_version).startswith(f"{names.GROUP}/"):
        _add_function(manifests, path, document, problem)
    elif kind in ("ConfigMap", "Secret") and api_version == "v1":
        _add_data(manifests, value, kind, problem)
    elif kind == names.KIND:
        manifests.problems.append(
            problem(("apiVersion",), f"{api_version!r} is not Kappa's apiVersion: write {names.API_VERSION}")
        )
    else:
        manifests.ignored[str(kind)] = manifests.ignored.get(str(kind), 0) + 1


def _add_function(manifests: Manifests, path: Path, document: Document, problem: Any) -> None:  # Any: the closure above
    value = {key: part for key, part in document.value.items() if key != "status"}
    key = _key(value)
    if key is not None and (first := manifests.functions.get(key)) is not None:
        found = problem(
            ("metadata", "name"),
            f"the Function {names.function_key(*key)} is declared twice, first in {first.path}: rename or remove one",
        )
        manifests.problems.append(found)
        return
    try:
        function, wrong = Function.model_validate(value), []
        if key is None:
            key = (function.metadata.namespace, function.metadata.name)
    except ValidationError as error:
        function = None
        wrong = [problem(location, message) for location, message in problems.of_validation(error)]
        manifests.problems.extend(wrong)
    if key is not None:
        manifests.functions[key] = Declared(key, path, function, tuple(wrong))


def _add_data(manifests: Manifests, value: Mapping[str, Any], kind: str, problem: Any) -> None:
    key = _key(value)
    if key is None:
        manifests.problems.append(problem(("metadata", "name"), "is missing; add it"))
        return
    plain, encoded = ("data", "binaryData") if kind == "ConfigMap" else ("stringData", "data")
    data: dict[str, bytes] = {}
    for section in (encoded, plain):  # a Secret's stringData wins over its data, as in Kubernetes
        entries = value.get(section) or {}
        if not isinstance(entries, dict):
            manifests.problems.append(problem((section,), "must be a mapping of names to text"))
            continue
        for name, content in entries.items():
            if not _DATA_KEY.fullmatch(str(name)) or name in (".", ".."):
                manifests.problems.append(problem((section, name), "a key is letters, digits, '-', '_' and '.' only"))
            elif not isinstance(content, str):
                manifests.problems.append(problem((section, name), f"{content!r} is not text: put it in quotes"))
            elif section == plain:
                data[str(name)] = content.encode()
            else:
                try:
                    data[str(name)] = base64.b64decode("".join(content.split()), validate=True)
                except binascii.Error:
                    hint = "; plain text goes into stringData" if kind == "Secret" else ""
                    manifests.problems.append(problem((section, name), f"is not base64{hint}"))
    (manifests.config_maps if kind == "ConfigMap" else manifests.secrets)[key] = data


def _key(value: Mapping[str, Any]) -> Key | None:
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        return None
    name = metadata.get("name")
    if not isinstance(name, str) or not name:
        return None
    return str(metadata.get("namespace") or "default"), name
