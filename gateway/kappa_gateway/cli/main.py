"""The entry point of the command `kappa`. It imports nothing that an extra brings before it knows that it is there."""

import sys


def main() -> int:
    """Ends the process, with the status that `app` lists."""
    try:
        from kappa_gateway.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("kappa_"):
            raise
        print(missing(error.name or "a package"), file=sys.stderr)
        return 1
    return run()


def missing(package: str) -> str:
    """What to say when a package of an extra is not installed."""
    return f"kappa needs the package {package}, which is not installed: pip install 'kappa-functions[local]'"


if __name__ == "__main__":
    sys.exit(main())
