"""The data path's operations as ordinary FastAPI routes: their documentation, over the very same code."""

from typing import TYPE_CHECKING

from fastapi import FastAPI

if TYPE_CHECKING:
    from kappa_gateway.data_path import DataPath


def add_data_path_routes(api: FastAPI, data_path: "DataPath") -> None:
    pass
