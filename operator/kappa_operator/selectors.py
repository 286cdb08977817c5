"""Which objects the operator lists and watches."""

from typing import Final

from kappa_core import names

OURS: Final = (
    f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY},"
    f"{names.LABEL_COMPONENT} in ({names.COMPONENT_FUNCTION},{names.COMPONENT_POOL})"
)
"""Labels of functions' and pools' Deployments and pods."""
POOLS: Final = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY},{names.LABEL_POOL}"
CONFIG_MAPS: Final = "metadata.name!=kube-root-ca.crt"
"""Fields: every namespace has that one, and no function uses it."""
GATEWAYS: Final = f"{names.LABEL_NAME}=kappa,{names.LABEL_COMPONENT}={names.COMPONENT_GATEWAY}"
"""Labels of the gateways' pods."""
