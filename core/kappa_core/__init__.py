"""What Kappa's parts agree on: the Function, names, manifests, scaling, wire formats, errors.

Pure Python: no I/O, no event loop, no clock of its own. This file stays empty of imports on purpose: a function's pod
imports `kappa_core.wire` alone and must not pay for pydantic.
"""
