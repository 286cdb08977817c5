"""`python -m kappa_gateway` as a process: what it says when it cannot start."""

import os
import subprocess
import sys


def start(**env):
    done = subprocess.run(
        [sys.executable, "-m", "kappa_gateway"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr


def test_every_wrong_setting_is_named():
    code, said = start(KAPPA_GATEWAY_PORT="x", KAPPA_GATEWAY_MAX_WAIT="-1")
    assert code == 2
    assert "KAPPA_GATEWAY_PORT='x'" in said
    assert "KAPPA_GATEWAY_MAX_WAIT='-1'" in said
    assert "Traceback" not in said


def test_a_list_that_is_no_json_says_how_to_write_it():
    code, said = start(KAPPA_GATEWAY_NAMESPACES="team-a,team-b")
    assert code == 2
    assert "namespaces" in said
    assert '["team-a", "team-b"]' in said
    assert "Traceback" not in said


def test_without_a_cluster_it_says_so(tmp_path):
    code, said = start(
        KUBECONFIG=str(tmp_path / "none"),
        KAPPA_GATEWAY_HOST="127.0.0.1",
        KAPPA_GATEWAY_PORT="0",
        KAPPA_GATEWAY_INTERNAL_PORT="0",
    )
    assert code == 1
    assert "cannot start" in said
    assert "Traceback" not in said
