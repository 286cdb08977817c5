"""The shape of the repository, where a slip would be found late or by a user."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def test_no_top_level_folder_is_a_package() -> None:
    """`operator/__init__.py` would shadow the standard library's `operator` for whoever runs from here."""
    assert [str(path) for path in ROOT.glob("*/__init__.py")] == []
    done = subprocess.run(
        [sys.executable, "-c", "import operator; print(operator.itemgetter)"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "<class 'operator.itemgetter'>", done.stderr


def test_tests_are_no_packages_and_their_file_names_are_apart() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_every_package_is_shipped() -> None:
    found = [path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("*/kappa_*/__init__.py")]
    assert sorted(found) == sorted(PACKAGES)
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file() or package != "core/kappa_core", package


def test_every_folder_of_modules_is_a_package() -> None:
    """A folder without an `__init__.py` works in a checkout, and is left out of nothing only by luck."""
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_the_charts_crd_is_the_generated_one() -> None:
    (copy,) = (ROOT / "charts").rglob("kappa.run_functions.yaml")
    assert copy.read_bytes() == (ROOT / "crds" / "kappa.run_functions.yaml").read_bytes()


def test_the_runtime_imports_nothing_heavy_from_the_core() -> None:
    """Every function pod pays for the agent's imports, so the core modules that the runtime uses import only the
    standard library."""
    used = set()
    for path in (ROOT / "runtime").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "kappa_core":
                used |= {f"kappa_core.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("kappa_core."):
                used.add(str(node.module))
    assert used, "the runtime speaks the wire that the core defines"
    modules = ", ".join(sorted(used))
    program = f"import sys, {modules}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"pydantic", "pydantic_core", "yaml", "asyncio", "kubernetes", "fastapi"}, modules


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_the_files_people_look_for_are_there(name: str) -> None:
    assert (ROOT / name).stat().st_size > 200


def test_nothing_names_a_path_of_the_machine_it_was_made_on() -> None:
    home = re.compile(r"(?<![\w.-])/(work|root|home/\w+)/")
    found = []
    folders = [
        ".ci",
        "charts",
        "cli",
        "core",
        "crds",
        "docs",
        "examples",
        "gateway",
        "kube",
        "operator",
        "runtime",
        "scripts",
        "tests",
    ]
    for path in (*ROOT.glob("*"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))):
        place = path.relative_to(ROOT)
        if "__pycache__" in place.parts or not path.is_file() or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if home.search(line):
                found.append(f"{place}:{number}: {line.strip()[:120]}")
    assert found == []
