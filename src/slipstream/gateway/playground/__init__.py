"""The playground: a page to chat with the models, served by the gateway itself and by nothing else."""

from __future__ import annotations

from importlib.resources import files
from mimetypes import guess_type

from fastapi import FastAPI
from fastapi.responses import Response
from starlette.exceptions import HTTPException

_FILES = ("index.html", "style.css", "page.js", "stream.js", "metrics.js", "chart.js")
# The page loads nothing from elsewhere, runs no text as code, and sends what is typed to this gateway alone.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def add_playground(app: FastAPI) -> None:
    """Serve the page at `/`. It holds no secret: what it asks for goes through the API, with the key that is typed."""
    page = files(__name__)
    contents = {name: page.joinpath(name).read_bytes() for name in _FILES}

    def answer(name: str) -> Response:
        return Response(contents[name], media_type=guess_type(name)[0], headers=_HEADERS)

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return answer("index.html")

    @app.get("/playground/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in contents:
            raise HTTPException(404, "there is no such file")
        return answer(name)
