"""Where local mode keeps its files."""

import tempfile
from pathlib import Path

import pytest

from kappa_cli.local.state_folder import PREFIX, StateFolder, queue_file


def test_the_same_manifests_have_the_same_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one, other = tmp_path / "one.yaml", tmp_path / "two"
    assert queue_file([one]) == queue_file([tmp_path / "x" / ".." / "one.yaml"])
    assert queue_file([one, other]) == queue_file([other, one])
    assert queue_file([one]) != queue_file([other])
    assert queue_file([one]).parent == tmp_path / "kappa"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert queue_file([one]).is_relative_to(tmp_path.home() / ".local" / "state" / "kappa")


def test_a_folder_is_removed_at_the_end_and_an_unused_one_by_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    unused = tmp_path / f"{PREFIX}unused"
    unused.mkdir()
    (unused / "lock").touch()
    with StateFolder() as first, StateFolder() as second:
        assert not unused.exists()
        assert first.is_dir(), "it is in use"
        assert second.is_dir()
    assert list(tmp_path.iterdir()) == []
