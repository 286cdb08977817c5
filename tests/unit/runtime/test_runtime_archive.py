"""Archives: what is unpacked, and what is refused."""

import hashlib
import io
import stat
import zipfile

import pytest

from kappa_runtime.start import archive
from kappa_runtime.start.code import CodeUnreadable

URL = "https://example.com/code.zip?signature=secret"


def zipped(*members):
    """Members: (name, content[, unix mode])."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content, *mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode[0] if mode else stat.S_IFREG | 0o644) << 16
            file.writestr(info, content)
    return buffer


def test_files_folders_and_modes(tmp_path):
    file = zipped(
        ("main.py", "x"), ("bin/", "", stat.S_IFDIR | 0o755), ("bin/run", "y", stat.S_IFREG | 0o755), ("a/b/c", "z")
    )
    archive.unpack(file, tmp_path, URL)
    assert (tmp_path / "main.py").read_text() == "x"
    assert (tmp_path / "a/b/c").read_text() == "z"
    assert (tmp_path / "bin/run").stat().st_mode & 0o111
    assert not (tmp_path / "main.py").stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("../out", "x"), "leads out"),
        (("a/../../out", "x"), "leads out"),
        (("/etc/passwd", "x"), "leads out"),
        (("a\\..\\out", "x"), "leads out"),
        (("link", "/etc/passwd", stat.S_IFLNK | 0o777), "links are not unpacked"),
    ],
)
def test_what_leads_out_is_refused(tmp_path, member, message):
    with pytest.raises(CodeUnreadable, match=message) as caught:
        archive.unpack(zipped(("good", "x"), member), tmp_path / "root", URL)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_UNPACKED", 1024 * 1024)
    with pytest.raises(CodeUnreadable, match="over 1 MiB unpacked"):
        archive.unpack(zipped(("a", b"\0" * 600_000), ("b", b"\0" * 600_000)), tmp_path, URL)


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_FILES", 2)
    with pytest.raises(CodeUnreadable, match="holds 3 files"):
        archive.unpack(zipped(("a", ""), ("b", ""), ("c", "")), tmp_path, URL)


@pytest.mark.parametrize("content", [b"", b"PK", b"<html>not a zip</html>"])
def test_what_is_no_zip(tmp_path, content):
    with pytest.raises(CodeUnreadable, match="no zip file"):
        archive.unpack(io.BytesIO(content), tmp_path, URL)


def test_the_hash_is_checked():
    file = io.BytesIO(b"abc")
    right = hashlib.sha256(b"abc").hexdigest()
    archive.check(file, right, URL)
    archive.check(file, right.upper(), URL)
    with pytest.raises(CodeUnreadable, match=right):
        archive.check(file, "0" * 64, URL)


def test_what_passes_is_tried_again(monkeypatch):
    answers = [archive._Passing("503"), archive._Passing("503"), [b"ab", b"c"]]
    pauses = []

    def fetch(url):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            yield b"half"
            raise answer
        yield from answer

    monkeypatch.setattr(archive, "_http", fetch)
    file = io.BytesIO()
    archive.download(URL, file, pauses.append)
    assert file.getvalue() == b"abc"
    assert len(pauses) == 2
    answers[:] = [archive._Passing("503")] * 3
    with pytest.raises(CodeUnreadable, match="cannot be fetched: 503"):
        archive.download(URL, file, pauses.append)


def test_an_archive_without_end(monkeypatch):
    monkeypatch.setattr(archive, "MAX_ARCHIVE", 1024 * 1024)
    monkeypatch.setattr(archive, "_http", lambda url: iter([b"x" * 65536] * 1000))
    with pytest.raises(CodeUnreadable, match="over 1 MiB"):
        archive.download(URL, io.BytesIO())
