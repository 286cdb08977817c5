"""The entry point of the command `kappa`. It reports a missing extra before anything of that extra is imported."""

import sys


def main() -> int:
    """Ends the process, with the status that the command's help lists."""
    try:
        from kappa_cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kappa_"):
            raise
        print(missing(error.name or "a package"), file=sys.stderr)
        return 1
    return run()


def missing(package: str) -> str:
    """The message for a package of an extra that is not installed."""
    return f"kappa needs the package {package}, which is not installed: pip install 'kappa-functions[local]'"


if __name__ == "__main__":
    sys.exit(main())
