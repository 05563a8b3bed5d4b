"""`GET /docs`: the API's schema as a page to read and try. Its script lies beside us: no browser is sent elsewhere."""

import hashlib
import re
from base64 import b64encode
from importlib import resources
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route

from anysize.api.page import PageFiles, page_headers

_FOLDER = Path(str(resources.files("fastapi_offline") / "static"))


def install_docs(app: FastAPI) -> None:
    """Serve the page at `/docs` and its files below, by addresses that hold behind any prefix of a proxy."""
    html = bytes(
        get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title}: API",
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="page/icon.svg",
        ).body
    ).decode()
    headers = page_headers(scripts=_inline_scripts(html), images="data:")

    async def docs(_request: Request) -> Response:
        return HTMLResponse(html, headers=headers)

    app.router.routes += [
        Route("/docs", docs, include_in_schema=False),
        Mount("/docs", PageFiles(_FOLDER, headers)),
    ]


def _inline_scripts(html: str) -> str:
    """The hashes by which a content security policy knows the scripts written into a page."""
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    return " ".join(f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts)
