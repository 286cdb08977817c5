"""What all invocations of a gateway share."""

from collections.abc import Callable

from kappa_gateway.invoke.peers import Peers
from kappa_gateway.pods.dialer import Dialer
from kappa_gateway.pods.dispatcher import Dispatcher
from kappa_gateway.pods.state import FunctionState
from kappa_gateway.pods.warm.claims import Claims
from kappa_gateway.pods.warm.specialize_request import Specializer


class Invoker:
    """What all invocations share. `specializer`, `does_not_fit` and `peers` are used only with pools.

    `does_not_fit(function, why)` is called for a function that is too large for a specialize request.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        dialer: Dialer,
        claims: Claims,
        *,
        specializer: Specializer | None,
        does_not_fit: Callable[[FunctionState, str], None],
        peers: Peers | None,
        connect_timeout: float,
        answer_margin: float,
        max_wait: float,
    ) -> None:
        self.dispatcher = dispatcher
        self.dialer = dialer
        self.claims = claims
        self.specializer = specializer
        self.does_not_fit = does_not_fit
        self.peers = peers
        self.connect_timeout = connect_timeout
        self.answer_margin = answer_margin
        self.max_wait = max_wait
