"""`kappa version`."""

import importlib.metadata
import platform


def version() -> None:
    """Print the versions of Kappa and Python."""
    print(f"kappa {importlib.metadata.version('kappa-functions')} (Python {platform.python_version()})")
