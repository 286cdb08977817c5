"""Pool pods: who signed, which variables a running interpreter heeds, what was imported ahead and gives way."""

import base64
import marshal
import sys
import types

import pytest
from nacl.signing import SigningKey

from kappa_core import phases
from kappa_runtime.agent import agent, gateway_wire, specialize
from kappa_runtime.start import prepared, prepared_process

KEY = SigningKey(bytes(range(32)))


def public(key: SigningKey) -> str:
    return base64.b64encode(bytes(key.verify_key)).decode()


def test_a_signature_is_the_keys_or_not():
    verify = specialize.verifier(public(KEY))
    signature = KEY.sign(b"message").signature
    assert verify(b"message", signature)
    assert not verify(b"massage", signature)
    assert not verify(b"message", SigningKey(bytes(32)).sign(b"message").signature)


@pytest.mark.parametrize("signature", [b"", b"x", bytes(63), bytes(65), bytes(64)])
def test_what_is_no_signature_is_nobodys(signature):
    assert not specialize.verifier(public(KEY))(b"message", signature)


@pytest.mark.parametrize("key", ["", "bm9uZQ==", "not base64!", public(KEY)[:-4], public(KEY) + "AAAA"])
def test_what_is_no_key_is_told(key):
    with pytest.raises(ValueError, match="KAPPA_POOL_PUBLIC_KEY is no Ed25519 key"):
        specialize.verifier(key)


@pytest.mark.parametrize(
    ("own", "pool", "suits"),
    [
        ({}, {}, True),
        ({"GREETING": "hi", "TZ": "Asia/Tokyo", "PATH": "/mine"}, {"PATH": "/bin"}, True),
        ({"PYTHONPATH": "/lib"}, {}, False),
        ({"LANG": "de_DE.UTF-8"}, {"LANG": "C.UTF-8"}, False),
        ({"LANG": "C.UTF-8"}, {"LANG": "C.UTF-8"}, True),
        ({"LD_PRELOAD": "/lib/x.so"}, {}, False),
        ({"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": ""}, {}, True),
    ],
)
def test_a_running_interpreter_suits_or_not(own, pool, suits):
    assert specialize.suits_running_interpreter(own, pool) is suits


def test_an_order_is_its_length_and_what_it_says():
    order = prepared.order({"A": "ü"}, "main.handler", "/var/task")
    assert int.from_bytes(order[:4], "big") == len(order) - 4
    assert marshal.loads(order[4:]) == ({"A": "ü"}, "main.handler", "/var/task")


def test_what_was_imported_ahead_gives_way_to_the_functions_own(tmp_path, monkeypatch):
    for name in ("kappa_test_base", "kappa_test_base.part"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    imported = prepared_process.Imported()
    ahead_of_it = ("kappa_test_queue", "kappa_test_queue.part", "kappa_test_other", "kappa_test_package")
    for name in ahead_of_it:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    (tmp_path / "kappa_test_base.py").write_text("")
    (tmp_path / "kappa_test_queue.cpython-313-x86_64-linux-gnu.so").write_text("")
    (tmp_path / "kappa_test_package").mkdir()
    imported.make_way(str(tmp_path))
    assert {name for name in sys.modules if name.startswith("kappa_test")} == {
        "kappa_test_base",
        "kappa_test_base.part",
        "kappa_test_other",
    }


def test_a_task_root_that_cannot_be_read_holds_nothing(tmp_path):
    prepared_process.Imported().make_way(str(tmp_path / "none"))
    assert "sys" in sys.modules


def test_a_module_that_cannot_be_imported_is_told_of(capsys):
    prepared_process.import_modules(["json", "kappa_no_such_module", "kappa runtime"])
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in said] == ["kappa_no_such_module", "kappa"]
    assert "ModuleNotFoundError" in said[0]


def test_phases_have_the_names_that_are_read():
    header = gateway_wire._PHASES % (agent.OPENING % (1, 2), 3, 4)
    _, _, value = header.decode().partition(": ")
    assert phases.read(value) == {"verify": 1, "code": 2, "init": 3, "run": 4}
