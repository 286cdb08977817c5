"""Files → Functions, ConfigMaps, Secrets, and what is wrong with them, in words."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kappa_cli.local.manifests.reading import Manifests, NoSuchPath, add, find, read

PATH = Path("app/function.yaml")
SOUND = """\
apiVersion: kappa.run/v1alpha1
kind: Function
metadata: {name: hello}
spec:
  runtime: python3.13
  handler: main.handler
  code: {inline: "x"}
"""


def parsed(text: str, *, named: bool = True) -> Manifests:
    manifests = Manifests()
    add(manifests, PATH, text, named=named)
    return manifests


def wrong(text: str, *, named: bool = True) -> list[str]:
    return [str(problem) for problem in parsed(text, named=named).problems]


def test_a_sound_manifest() -> None:
    manifests = parsed(SOUND)
    declared = manifests.functions[("default", "hello")]
    assert declared.function is not None
    assert declared.function.spec.handler == "main.handler"
    assert manifests.problems == []


def test_several_documents_and_their_objects() -> None:
    manifests = parsed(
        SOUND
        + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: '1'}\nbinaryData: {b: AAE=}\n"
        + "---\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: n}\n"
        + "data: {a: b2xk, b: b2xk}\nstringData: {a: new}\n"
        + "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n"
    )
    assert manifests.problems == []
    assert manifests.config_maps == {("default", "c"): {"a": b"1", "b": b"\0\x01"}}
    assert manifests.secrets == {("n", "s"): {"a": b"new", "b": b"old"}}
    assert manifests.ignored == {"Deployment": 1}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("timeout: 30s", "timeout: 30"), "8: spec.timeout: 30 is a number and must be text: put it in quotes"),
        (("timeout: 30s", "timeout: soon"), "8: spec.timeout: 'soon' is not valid here, such as 30s or 500ms"),
        (("timeout: 30s", "timeout: 2h"), "8: spec.timeout: must be between 100ms and 1h"),
        (("timeout: 30s", "timout: 30s"), "8: spec.timout: there is no such field; did you mean timeout?"),
        (
            ("timeout: 30s", "scaling: {keepwarm: 5m}"),
            "8: spec.scaling.keepwarm: there is no such field; did you mean keepWarm?",
        ),
        (
            ("timeout: 30s", "concurrency: 0"),
            "8: spec.concurrency: input should be greater than or equal to 1, and it is 0",
        ),
        (("timeout: 30s", "env: [{name: KAPPA_X, value: a}]"), "8: spec.env[0]"),
        (('code: {inline: "x"}', 'code: {inline: "x", image: {ref: y}}'), "7: spec.code: "),
        (("handler: main.handler", "handler: main"), "6: spec.handler: must be module.function, such as main.handler"),
        (
            ("name: hello", "name: Hello"),
            "3: metadata.name: 'Hello' is not valid here: lower-case letters, digits and dashes",
        ),
        (
            ("timeout: 30s", "env: [{name: 1A, value: a}]"),
            "8: spec.env[0].name: '1A' is not valid here: letters, digits and _, not starting with a digit",
        ),
        (
            ("timeout: 30s", "async: {onFailure: {function: {name: Audit}}}"),
            "8: spec.async.onFailure.function.name: 'Audit' is not valid here: lower-case letters, digits and dashes",
        ),
        (("timeout: 30s", "async: {onFailure: {http: {}}}"), "8: spec.async.onFailure.http.url: is missing; add it"),
        (
            ("timeout: 30s", "async: {onSuccess: {http: {url: a.example.com}}}"),
            "8: spec.async.onSuccess.http.url: must be like https://example.com/hook, "
            "without user:password@, spaces and #fragment",
        ),
        (
            ("timeout: 30s", "async: {onSuccess: {nats: {subject: orders.*}}}"),
            "8: spec.async.onSuccess.nats.subject: must be like orders.done: letters, digits, _ and "
            "-, separated by dots; no wildcards",
        ),
        (
            ("timeout: 30s", "async: {deadLetter: {}}"),
            "8: spec.async.deadLetter: set exactly one of function, nats and http",
        ),
        (("kappa.run/v1alpha1", "kappa.run/v1"), "1: apiVersion: "),
        (("kappa.run/v1alpha1", "v1"), "1: apiVersion: 'v1' is not Kappa's apiVersion: write kappa.run/v1alpha1"),
        (("kind: Function\n", ""), "1: this is not a manifest: it has no kind"),
        (("  runtime: python3.13\n", "\truntime: python3.13\n"), "5: this is not YAML: YAML does not accept tabs here"),
        (("metadata: {name: hello}", "metadata: {name: hello"), "this is not YAML: "),
        (
            ("  handler", "  runtime: python3.12\n  handler"),
            "6: the key 'runtime' appears twice, first in line 5: keep one",
        ),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_field(change: tuple[str, str], says: str) -> None:
    text = (SOUND + "  timeout: 30s\n").replace(*change)
    assert text != SOUND + "  timeout: 30s\n"
    problems = wrong(text)
    place = "" if says.startswith("this") else "app/function.yaml:"
    assert any(problem.startswith(place + says) or (not place and says in problem) for problem in problems), problems


def test_the_document_is_named_where_there_are_several() -> None:
    text = SOUND + "---\n" + SOUND.replace("hello", "other").replace("main.handler", "main")
    (problem,) = wrong(text)
    assert problem.startswith("app/function.yaml:14 (document 2): spec.handler: ")


def test_each_wrong_field_is_said() -> None:
    text = SOUND.replace("python3.13", "Python") + "  timeout: 3\n  memroy: 1Gi\n"
    assert len(wrong(text)) == 3


def test_a_function_that_is_wrong_is_still_known_by_its_name() -> None:
    manifests = parsed(SOUND.replace("main.handler", "main"))
    declared = manifests.functions[("default", "hello")]
    assert declared.function is None
    assert [problem.field for problem in declared.problems] == ["spec.handler"]


def test_what_comes_before_broken_yaml_is_kept() -> None:
    manifests = parsed(SOUND + "---\nfoo: [\n")
    assert ("default", "hello") in manifests.functions
    assert list(manifests.unreadable) == [PATH]
    assert "(document 2)" in str(manifests.problems[0])


def test_a_function_declared_twice() -> None:
    (problem,) = wrong(SOUND + "---\n" + SOUND)
    assert "default/hello is declared twice, first in app/function.yaml" in problem


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data: {port: 80}", "data.port: 80 is not text: put it in quotes"),
        ("data: {../main.py: x}", "data.../main.py: a key is letters"),
        ("data: {..: x}", "a key is letters"),
        ("data: [a]", "data: must be a mapping"),
        ("binaryData: {a: '%%'}", "binaryData.a: is not base64"),
    ],
)
def test_a_config_map_that_kubernetes_would_refuse(text: str, says: str) -> None:
    (problem,) = wrong(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\n{text}\n")
    assert says in problem


def test_plain_text_in_a_secrets_data_is_recognised() -> None:
    (problem,) = wrong("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: 'not base64!'}\n")
    assert "plain text goes into stringData" in problem


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "a: 1\n", "[1, 2]\n", "services: {web: {image: x}}\n", "{", "a: ["]
)
def test_a_file_that_was_only_found_and_is_something_else_is_passed_over(text: str) -> None:
    assert wrong(text, named=False) == []


@given(st.text(max_size=200))
def test_no_text_is_too_strange(text: str) -> None:
    parsed(text)


LINES = [
    *("kind: Function", "apiVersion: kappa.run/v1alpha1", "metadata:", "  name: a", "spec:", "- x", "---"),
    *("  code: {inline: 3}", "metadata: {name: [a]}", "spec: null", "metadata: x"),
]


@given(st.lists(st.sampled_from(LINES), max_size=12))
def test_no_mixture_of_manifest_lines_is_too_strange(lines: list[str]) -> None:
    for problem in wrong("\n".join(lines)):
        assert problem.startswith("app/function.yaml")


def test_folders_are_searched_but_not_those_of_tools(tmp_path: Path) -> None:
    for name in (
        "a.yaml",
        "sub/b.yml",
        "sub/deep/c.json",
        "sub/readme.md",
        ".hidden/d.yaml",
        "node_modules/e.yaml",
        ".f.yaml",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path, _ in find([tmp_path])] == [
        "a.yaml",
        "sub/b.yml",
        "sub/deep/c.json",
    ]


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(SOUND)
    manifests = read([file, tmp_path, file])
    assert manifests.problems == []
    assert len(manifests.functions) == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    texts = [str(problem) for problem in read([tmp_path]).problems]
    assert any("latin.yaml: this is not UTF-8 text" in text for text in texts)
    assert any("gone.yaml: No such file" in text for text in texts)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NoSuchPath, match="does not exist"):
        read([tmp_path / "x"])
