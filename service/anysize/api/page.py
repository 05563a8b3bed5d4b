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


def page_headers(*, scripts: str = "", images: str = "") -> dict[str, str]:
    """Headers of a page that runs its own files, speaks to its own service, and is in nobody's frame.

    Args:
        scripts: what else may run, in the words of a content security policy.
        images: where else images may come from, likewise.
    """
    return {
        "Content-Security-Policy": f"default-src 'self'; script-src 'self' {scripts}; img-src 'self' {images}; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        # A browser asks whether a file has changed, and mostly hears that it has not.
        "Cache-Control": "no-cache",
    }


class PageFiles(StaticFiles):
    """The files that a page is made of."""

    def __init__(self, folder: Path, headers: dict[str, str]) -> None:
        super().__init__(directory=folder)
        self._headers = headers

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """A file, or that it has not changed."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(self._headers)
        return response


def install_page(app: FastAPI) -> None:
    """Serve the page at `/` and its files below `/page`, which are no part of the API that the schema describes."""
    headers = page_headers()

    async def index(_request: Request) -> Response:
        return FileResponse(FOLDER / "index.html", headers=headers)

    app.router.routes += [Route("/", index, include_in_schema=False), Mount("/page", PageFiles(FOLDER, headers))]
