"""The parts of a function URL's path."""

from typing import Final
from urllib.parse import unquote

PREFIX: Final = b"/fn/"


class Target:
    __slots__ = ("name", "namespace", "path", "prefix")

    def __init__(self, raw_path: bytes) -> None:
        namespace, _, rest = raw_path[len(PREFIX) :].partition(b"/")
        name, slash, path = rest.partition(b"/")
        self.namespace = unquote(namespace.decode("latin-1"))
        self.name = unquote(name.decode("latin-1"))
        self.path = slash + path or b"/"
        """The path that the function sees, with its escapes unchanged."""
        self.prefix = PREFIX + namespace + b"/" + name
