"""`GET /`: the playground, one page of static files. Knows nothing of what they show."""

import os
from importlib import resources
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOLDER = Path(str(resources.files("anysize") / "web"))

# The page runs its own files and speaks to its own service, and nobody may put it into a frame.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A browser asks whether a file has changed, and mostly hears that it has not.
    "Cache-Control": "no-cache",
}


class PageFiles(StaticFiles):
    """The files that the page is made of."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """A file, or that it has not changed."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(_HEADERS)
        return response


def install_page(app: FastAPI) -> None:
    """Serve the page at `/` and its files below `/page`, which are no part of the API that the schema describes."""
    app.router.routes += [Route("/", _index, include_in_schema=False), Mount("/page", PageFiles())]


async def _index(_request: Request) -> Response:
    return FileResponse(FOLDER / "index.html", headers=_HEADERS)
