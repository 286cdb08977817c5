"""The pages hold together: links lead somewhere, manifests are valid, and what the code lists is listed."""

import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic.alias_generators import to_camel

from kappa_core import errors, metrics
from kappa_core.errors import KappaError
from kappa_core.event import Status
from kappa_core.function import Function
from kappa_core.reasons import BLOCKING, ConditionType, Reason
from kappa_gateway.settings import Settings as GatewaySettings
from kappa_operator.settings import Settings as OperatorSettings
from kappa_runtime.start.code import UNREADABLE
from kappa_runtime.worker import errors as runtime_errors

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md"))
    if path.is_file()
)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(language: str) -> list[Any]:
    found = []
    for page in PAGES:
        for number, match in enumerate(FENCE.finditer(page.read_text(encoding="utf-8")), 1):
            if match[2] == language:
                found.append(pytest.param(match[3], id=f"{name(page)}-{number}"))
    return found


def anchors(markdown: str) -> set[str]:
    """What GitHub makes of the headings."""
    without_code = FENCE.sub("", markdown)
    headings = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(markdown: str, start: str) -> str:
    return markdown.partition(start)[2]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    markdown = page.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", markdown)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or ROOT not in (file, *file.parents):
            broken.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            broken.append(f"{target}: no such heading")
    assert broken == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached or page.suffix != ".md" or not page.is_file():
            continue
        reached.add(page)
        targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        files = [(page.parent / target).resolve() for target in targets if not target.startswith("http")]
        ahead += [file / "README.md" if file.is_dir() else file for file in files]
    assert [name(page) for page in PAGES if page not in reached] == []


@pytest.mark.parametrize("block", blocks("yaml"))
def test_manifests_are_valid(block: str) -> None:
    documents = [document for document in yaml.safe_load_all(block) if document]
    assert documents
    for document in documents:
        if document.get("kind") == "Function":
            Function.model_validate(document)
        elif document.get("kind") != "ConfigMap":
            schema = json.loads(text("charts/kappa/values.schema.json"))
            jsonschema.Draft7Validator(schema).validate(document)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_parses(block: str) -> None:
    ast.parse(block)


def test_the_readme_shows_the_first_example() -> None:
    example = yaml.safe_load(text("examples/01-hello/function.yaml"))
    shown = [yaml.safe_load(match[3]) for match in FENCE.finditer(text("README.md")) if match[2] == "yaml"]
    assert shown == [example]


def test_commands_of_make_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    used = {target for page in PAGES for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text("utf-8"), re.M)}
    assert used >= {"run", "test", "check", "test-cluster", "images", "deploy", "bench", "generate"}
    assert used - targets == set()


def test_every_error_is_on_its_page_with_its_status_and_name() -> None:
    page = text("docs/errors.md")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+ \| [\w ,]+) \|", page, re.MULTILINE))
    classes = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, KappaError)]
    assert rows.keys() == {cls.__name__ for cls in classes}
    for cls in classes:
        status, _, error_type = rows[cls.__name__].partition(" | ")
        assert status == str(cls.status)
        assert error_type in (cls.error_type, "by reason, see below")


def test_every_reason_and_condition_is_on_its_page() -> None:
    page = text("docs/conditions.md")
    fine, _, wrong = page.partition("## When something is wrong")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\w+)", wrong, re.MULTILINE))
    good = set(re.findall(r"^\| `(\w+)` \|", section(fine, "## When all is well"), re.MULTILINE))
    assert good | rows.keys() == {reason.value for reason in Reason}
    assert {reason for reason, blocks in rows.items() if blocks == "yes"} == {reason.value for reason in BLOCKING}
    for condition in ConditionType:
        assert f"| `{condition}` |" in fine


def test_every_metric_is_on_its_page() -> None:
    page = text("docs/metrics.md")
    exported = {metric.name for metric in vars(metrics).values() if isinstance(metric, metrics.Metric)}
    operator = "\n".join(path.read_text("utf-8") for path in (ROOT / "operator").rglob("*.py"))
    exported |= set(re.findall(r'"(kappa_operator_\w+)"', operator))
    exported |= {f"kappa_operator_{suffix}" for suffix in re.findall(r'metrics\.gauge\(\s*"(\w+)"', operator)}
    listed = set(re.findall(r"`(kappa_\w+?)(?:\{\w+\})?`", page))
    assert exported - listed == set(), "not on docs/metrics.md"
    assert {metric for metric in listed if not metric.endswith("_bucket")} - exported == set(), "no longer exported"
    for labels in (metrics.Outcome, metrics.Phase):
        for value in labels:
            assert f"`{value}`" in page
    assert all(f"`{kind}`" in page for kind in metrics.InvocationType)


def test_every_error_type_of_the_runtime_is_on_the_page_of_errors() -> None:
    page = section(text("docs/errors.md"), "## When the function itself fails")
    own = {
        value for value in vars(runtime_errors).values() if isinstance(value, str) and re.fullmatch(r"\w+\.\w+", value)
    }
    own -= {runtime_errors.__name__, runtime_errors.__package__}
    assert len(own) >= 5
    for error_type in own | {UNREADABLE}:
        assert f"| `{error_type}` |" in page


def test_every_error_type_of_asynchronous_invocations_is_on_the_page_of_errors() -> None:
    page = section(text("docs/errors.md"), "## When the function itself fails")
    sources = [*(ROOT / "gateway/kappa_gateway/events").rglob("*.py"), ROOT / "core/kappa_core/destinations.py"]
    own = {kind for path in sources for kind in re.findall(r'"(Kappa\.[A-Z]\w+)"', path.read_text("utf-8"))}
    assert len(own) >= 5
    assert {kind for kind in own if f"`{kind}`" not in page} == set()


def test_settings_that_the_pages_name_are_there() -> None:
    fields = {"gateway": GatewaySettings.model_fields, "operator": OperatorSettings.model_fields}
    named = {
        match for page in PAGES for match in re.findall(r"(gateway|operator)\.config\.(\w+)", page.read_text("utf-8"))
    }
    named |= {("gateway", name) for name in re.findall(r"`(max\w+|queue\w+)`", text("docs/invoking.md"))}
    assert len(named) >= 5
    assert [(part, name) for part, name in named if name not in {to_camel(field) for field in fields[part]}] == []


def test_settings_and_states_of_asynchronous_invocations_are_on_their_page() -> None:
    page = text("docs/async.md")
    rows = re.findall(r"^\| (`.+?) \|", section(page, "## Settings"), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    fields = {
        to_camel(field)
        for field in GatewaySettings.model_fields
        if field.startswith(("event", "result_", "dead_letter_", "delivery_")) and field != "delivery_addresses"
    }
    assert fields - listed == set()
    assert listed <= {to_camel(field) for field in GatewaySettings.model_fields}
    states = section(page, "## What became of it").partition("## ")[0]
    assert re.findall(r"^\| `(\w+)` \| ", states, re.MULTILINE)[1:] == [status.value for status in Status]


def test_values_of_the_chart_that_the_pages_name_are_there() -> None:
    values = yaml.safe_load(text("charts/kappa/values.yaml"))
    table = text("docs/install.md").partition("## Values")[2].partition("###")[0]
    named = [
        path for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for path in re.findall(r"`([\w.]+)`", row)
    ]
    assert len(named) >= 8
    for path in named:
        value = values
        for step in path.split("."):
            assert step in value, path
            value = value[step]


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = sorted(path.name for path in folder.glob("[0-9]*.md"))
    listed = re.findall(r"\((\d{4}-[^)]+)\)", text("docs/decisions/README.md"))
    assert listed == pages
    assert [page[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
