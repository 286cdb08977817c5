"""`python -m kappa_runtime.start.archive`: fetch the function's zip, check its hash, unpack it.

It is a process of its own: what fetching needs (obstore's threads, TLS) must not stay in every pod's agent. Exit status
0, or 1 and the reason as the last line of its output. http(s) is fetched by the standard library, since presigned URLs
carry their signature in the query and redirects are usual; s3 by obstore, with the function's own AWS_* variables.

A gateway may have a copy. It is tried first, once and with a short timeout: the gateway may end meanwhile, drop the
copy, or be out of reach for the pod (a NetworkPolicy). None of that may fail a start that the archive's own URL serves.
"""

import hashlib
import http.client
import io
import os
import shutil
import stat
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Final
from urllib.parse import urlsplit

from kappa_core.agent_config import AgentConfig
from kappa_runtime.start.code import CodeUnreadable

if TYPE_CHECKING:
    from obstore.store import ClientConfig

MAX_ARCHIVE: Final = 256 * 1024 * 1024
MAX_UNPACKED: Final = 1024 * 1024 * 1024
MAX_FILES: Final = 50_000
ATTEMPTS: Final = 3
TIMEOUT: Final = 20.0
"""Seconds for a connection and for each read."""
COPY_TIMEOUT: Final = 2.0
"""The same at a gateway, which is near and holds its copy in memory."""
_CHUNK: Final = 256 * 1024


def main() -> int:
    config = AgentConfig.from_env(os.environ)
    try:
        with tempfile.TemporaryFile(dir=_scratch(config.task_root)) as file:
            if not (config.code_archive_copy and take_copy(config, file)):
                download(config.code_archive_url, file)
                check(file, config.code_archive_sha256, config.code_archive_url)
            unpack(file, Path(config.task_root), config.code_archive_url)
    except CodeUnreadable as error:
        print(error)  # noqa: T201 - how the agent learns it
        return 1
    except OSError as error:
        print(_cannot_unpack(config.code_archive_url, config.task_root, error))  # noqa: T201
        return 1
    return 0


def unpack_bytes(content: bytes, task_root: str, url: str) -> None:
    """An archive that is there already. Raises `CodeUnreadable`."""
    try:
        unpack(io.BytesIO(content), Path(task_root), url)
    except OSError as error:
        raise CodeUnreadable(_cannot_unpack(_shown(url), task_root, error)) from None


def _cannot_unpack(url: str, task_root: str, error: OSError) -> str:
    return f"the archive {url} cannot be unpacked into {task_root}: {error}"


def download(url: str, file: BinaryIO, pause: Callable[[float], None] = time.sleep) -> None:
    """Fetch a zip into a file; what may pass is tried three times. Raises `CodeUnreadable`."""
    chunks = _s3 if urlsplit(url).scheme == "s3" else _http
    for attempt in range(1, ATTEMPTS + 1):
        file.seek(0)
        file.truncate()
        try:
            size = 0
            for chunk in chunks(url):
                size += len(chunk)
                if size > MAX_ARCHIVE:
                    raise CodeUnreadable(
                        f"the archive {_shown(url)} is over {MAX_ARCHIVE >> 20} MiB: use an image instead"
                    )
                file.write(chunk)
        except _Passing as error:
            if attempt == ATTEMPTS:
                raise CodeUnreadable(f"the archive {_shown(url)} cannot be fetched: {error}") from None
            pause(0.2 * 3**attempt)
        else:
            return


def take_copy(config: AgentConfig, file: BinaryIO) -> bool:
    """Fetch the gateway's copy into a file; whether that is the archive."""
    # the function's own variables may name a proxy, which does not lead to a gateway
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(config.code_archive_copy, timeout=COPY_TIMEOUT) as response:
            shutil.copyfileobj(response, file, _CHUNK)
        check(file, config.code_archive_sha256, config.code_archive_copy)
    except (OSError, ValueError, http.client.HTTPException, CodeUnreadable) as error:
        reason = f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
        message = f"kappa: the gateway's copy of the archive cannot be had ({reason}): it is fetched from its own URL"
        print(message)  # noqa: T201
        return False
    return True


class _Passing(Exception):
    """A failure that may be gone at the next try."""


def _http(url: str) -> Iterator[bytes]:
    try:
        # the CRD allows http(s) and s3 only
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:  # noqa: S310
            while chunk := response.read(_CHUNK):
                yield chunk
    except urllib.error.HTTPError as error:
        if error.code >= 500 or error.code in (408, 429):
            raise _Passing(f"HTTP {error.code} {error.reason}") from None
        raise CodeUnreadable(
            f"the archive {_shown(url)} cannot be fetched: HTTP {error.code} {error.reason};"
            " check the URL, and that it needs no login"
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _Passing(str(getattr(error, "reason", error)) or type(error).__name__) from None


def _s3(url: str) -> Iterator[bytes]:
    import obstore
    from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
    from obstore.store import S3Store

    parts = urlsplit(url)
    endpoint: str | None = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    try:
        options: ClientConfig = {"allow_http": bool(endpoint and endpoint.startswith("http://")), "timeout": "60s"}
        if endpoint:
            store = S3Store(parts.netloc, region=region, endpoint=endpoint, client_options=options)
        else:
            store = S3Store(parts.netloc, region=region, client_options=options)
        for chunk in obstore.get(store, parts.path.lstrip("/")).stream(_CHUNK):
            yield bytes(chunk)
    except (NotFoundError, FileNotFoundError):
        raise CodeUnreadable(f"the archive {url} is not there: no such object in the bucket {parts.netloc}") from None
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise CodeUnreadable(
            f"the archive {url} may not be read: {_first_line(error)};"
            " give the function AWS_* credentials that may, by env or envFrom"
        ) from None
    except BaseError as error:
        raise _Passing(_first_line(error)) from None


def check(file: BinaryIO, sha256: str, url: str) -> None:
    """Raises `CodeUnreadable` for content of another hash; an empty hash checks nothing."""
    if not sha256:
        return
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    found = digest.hexdigest()
    if found != sha256.lower():
        raise CodeUnreadable(
            f"the archive {_shown(url)} has SHA-256 {found}, not {sha256} as the Function says: set code.archive.sha256"
        )


def unpack(file: BinaryIO, task_root: Path, url: str) -> None:
    """Unpack a zip into the task root: no path leads out of it, its size is bounded. Raises `CodeUnreadable`."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MAX_FILES:
                raise CodeUnreadable(f"the archive {_shown(url)} holds {len(members)} files, over {MAX_FILES}")
            left = MAX_UNPACKED
            for member in members:
                left -= _unpack_member(archive, member, task_root, left, url)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, ValueError) as error:
        # RuntimeError: an encrypted member; ValueError: a path with a NUL
        raise CodeUnreadable(f"the archive {_shown(url)} is no zip file that can be read: {error}") from None


def _unpack_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, task_root: Path, left: int, url: str) -> int:
    path = PurePosixPath(member.filename)
    mode = member.external_attr >> 16
    if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
        raise CodeUnreadable(f"the archive {_shown(url)} holds {member.filename!r}, which leads out of the task root")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise CodeUnreadable(
            f"the archive {_shown(url)} holds {member.filename!r}, which is neither file nor folder:"
            " links are not unpacked (zip without -y)"
        )
    target = task_root.joinpath(*path.parts)
    if member.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(member) as source, target.open("wb") as destination:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > left:
                raise CodeUnreadable(
                    f"the archive {_shown(url)} is over {MAX_UNPACKED >> 20} MiB unpacked: use an image instead"
                )
            destination.write(chunk)
    if mode & 0o111:
        target.chmod(0o755)
    return written


def _scratch(task_root: str) -> str | None:
    """Where the zip itself may lie meanwhile: the usual place, or the task root where a read-only pod has no other."""
    usual = tempfile.gettempdir() if os.access("/tmp", os.W_OK) else task_root  # noqa: S108
    return usual if shutil.disk_usage(usual).free else None


def _shown(url: str) -> str:
    """A URL without its query, which may hold a signature."""
    return url.partition("?")[0]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    sys.exit(main())
