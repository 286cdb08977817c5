"""What differs between the systems that local mode runs on. Everything else in this package is plain POSIX."""

import sys
from collections.abc import Mapping


def agent_environment(platform: str = sys.platform) -> Mapping[str, str]:
    """Variables that every agent needs on this system."""
    if platform == "darwin":
        # A runtime process is a fork of its agent. Without this, macOS aborts a forked process whose libraries then use
        # its frameworks, as urllib does when it looks for a proxy.
        return {"OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES"}
    return {}
