"""``/docs``: the reference, as Swagger UI shows it. Its scripts and styles are ours to serve (service/reference), so that no other host is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

_KINDS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
_KEPT = {"Cache-Control": "public, max-age=86400"}


def install(app: FastAPI) -> None:
    """Serve it."""

    async def page(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=f"{app.title}: reference",
            swagger_js_url=f"{root}/docs/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/docs/swagger-ui.css",
            swagger_favicon_url=f"{root}/docs/favicon-32x32.png",
            swagger_ui_parameters={"validatorUrl": None},  # else the document's address is told to one of theirs
        )

    app.add_route("/docs", page, include_in_schema=False)
    for name, kind in _KINDS.items():
        app.add_route(f"/docs/{name}", _file(name, kind), include_in_schema=False)


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = (files("service") / "reference" / name).read_bytes()

    async def file(_: Request) -> Response:
        return Response(content, media_type=kind, headers=_KEPT)

    return file
