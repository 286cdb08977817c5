"""What Kappa's parts agree on: the Function, names, manifests, scaling, wire formats, errors.

Pure Python: no I/O, no event loop, no clock of its own. It imports pydantic and the standard library, and none of the
other packages. This file has no imports on purpose: a function's pod imports `kappa_core.wire` and a few modules like
it, which use the standard library alone, and must not pay for pydantic.
"""
