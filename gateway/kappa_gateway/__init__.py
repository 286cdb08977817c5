"""Kappa's gateway: the data path and the Lambda API. `server.serve` runs it over a `backend.Backend`."""

__version__ = "0.1.0"
