"""YAML documents that know the line of each field. A key that appears twice is an error. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, SequenceNode


class YamlError(Exception):
    """A file that is not valid YAML; `line` counts from 1."""

    def __init__(self, message: str, line: int | None, document: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.document = document


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file."""

    number: int
    """Counted from 1, empty documents included."""
    value: Any  # whatever the YAML holds
    node: Node

    def line(self, location: Sequence[str | int] = ()) -> int:
        """The line of a field, counted from 1, or of the nearest parent that exists."""
        node, line = self.node, self.node.start_mark.line
        for part in location:
            found = _child(node, part)
            if found is None:
                break
            node, line = found
        return int(line) + 1


def documents(text: str) -> Iterator[Document]:
    """Each document that is not empty. Raises `YamlError` at the first that cannot be read."""
    number = 0
    try:
        loader = yaml.SafeLoader(text)
    except yaml.YAMLError as error:
        raise _error(error, 1) from None
    try:
        while True:
            number += 1
            if not loader.check_node():
                break
            node = loader.get_node()
            assert node is not None, "check_node said there is one"
            _refuse_duplicates(node, number, set())
            value = loader.construct_document(node)
            if value is not None:
                yield Document(number, value, node)
    except yaml.YAMLError as error:
        raise _error(error, number) from None
    finally:
        loader.dispose()


def _error(error: yaml.YAMLError, number: int) -> YamlError:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        message = error.problem or error.context or "cannot be read"
        if message == "found character '\\t' that cannot start any token":
            message = "YAML does not accept tabs here: indent with spaces"
        return YamlError(f"this is not YAML: {message}", mark.line + 1 if mark else None, number)
    return YamlError(f"this is not YAML: {error}", None, number)


def _refuse_duplicates(node: Node, number: int, visited: set[int]) -> None:
    if id(node) in visited:  # an alias: the same node again, perhaps within itself
        return
    visited.add(id(node))
    if isinstance(node, SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, number, visited)
    elif isinstance(node, MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen and key.value != "<<":
                message = f"the key {key.value!r} appears twice, first in line {seen[key.value]}: keep one"
                raise YamlError(message, line, number)
            if isinstance(key.value, str):
                seen[key.value] = line
            _refuse_duplicates(value, number, visited)


def _child(node: Node, part: str | int) -> tuple[Node, int] | None:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if key.value == part:
                return value, key.start_mark.line
    elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part].start_mark.line
    return None
