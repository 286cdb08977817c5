"""Write the files that are made from the Function model and the metrics; with --check, fail if one is out of date.

Run it by `make generate`; `make check` runs it with --check.
"""

import sys
from pathlib import Path

import yaml
from dashboard import dashboard
from reference import reference

from kappa_core.crd import crd, function_schema

ROOT = Path(__file__).resolve().parent.parent
CRD_FILE = "kappa.run_functions.yaml"
HEADER = "# Generated from core/kappa_core/function/ by `make generate`: edit that, not this.\n"


def generated() -> dict[Path, str]:
    """Path from the repository's root → text, for every generated file."""
    crd_text = HEADER + "---\n" + _yaml(crd())
    return {
        Path("crds") / CRD_FILE: crd_text,
        # a template applies it, as Helm never updates the files in a chart's crds/
        Path("charts/kappa/files") / CRD_FILE: crd_text,
        Path("docs/function-reference.md"): reference(function_schema()),
        Path("charts/kappa/files/dashboards/kappa.json"): dashboard(),
    }


def _yaml(value: object) -> str:
    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    return yaml.dump(value, Dumper=Dumper, sort_keys=False, width=120, allow_unicode=True)


def stale(root: Path) -> list[Path]:
    """The generated files that are missing or out of date."""
    return [
        path
        for path, text in generated().items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text
    ]


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: generate.py [--check]", file=sys.stderr)
        return 2
    old = stale(ROOT)
    if arguments:
        for path in old:
            print(f"{path} is out of date: run  make generate  and commit it", file=sys.stderr)
        return 1 if old else 0
    for path in old:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(generated()[path], encoding="utf-8")
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
