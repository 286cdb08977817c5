"""`python -m kappa_operator`: run the operator with the settings of the environment."""

import asyncio
import logging
import sys
from collections.abc import Callable

from kappa_core import logs
from kappa_kube.errors import NoCluster
from kappa_operator.app import Operator
from kappa_operator.settings import load


def main() -> int:
    try:
        settings = load()
    except ValueError as error:
        print(f"the operator's settings cannot be read:\n{error}", file=sys.stderr)  # noqa: T201
        return 2
    logs.configure(settings.log_level, settings.log_format)
    # Both log every event of every object at info or below; the operator logs what matters of that itself.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("aiohttp").setLevel(logging.WARNING)

    async def run() -> int:
        return await Operator(settings).run()

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(run())
    except NoCluster as error:
        logging.getLogger(__name__).error("no way to the cluster", extra={"error": str(error)})
        return 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    sys.exit(main())
