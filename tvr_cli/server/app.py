"""The addresses of a server. Each answer is the JSON that the command of the same name prints, or bytes.

GET  /                     the page
GET  /api/library          what is searched
GET  /api/search           moments, as `tvr query --json`
POST /api/search           the same with a picture in the body
GET  /api/watch            what keeps it up to date, as `tvr watch --status --json`
GET  /api/picture          the frame nearest to a second of a file
GET  /media                a file of the library, or a part of it (byte ranges)
GET  /docs, /openapi.json  all of this for programs
"""

from __future__ import annotations

import mimetypes
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from tvr_cli import log
from tvr_cli.api import FOUND
from tvr_cli.engine.searching import typed
from tvr_cli.engine.searching.question import Picture
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem, Interrupted, TvrError, Unreadable, reason
from tvr_cli.server.guard import Guard, Rules
from tvr_cli.server.library import Library
from tvr_cli.server.pictures import Pictures
from tvr_cli.version import __version__
from tvr_cli.watching import status as watching

_MOST_K = 200
_LONGEST = 2000  # letters of a question
_STATIC = ("page.html", "style.css", "page.js", "watch.js", "docs.html", "docs.css", "docs.js")
_STATUS = ((ConfigError, 400), (Unreadable, 503), (DataError, 404), (EnvironmentProblem, 503), (Interrupted, 503))

Several = Annotated[Sequence[str], Query(max_length=16)]


def create_app(library: Library, rules: Rules) -> Guard:
    """Return the app that serves a library, behind its guard."""
    app = FastAPI(
        title="tvr", version=__version__, docs_url=None, redoc_url=None,
        description="Search the moments of a library of videos. Everything stays on this machine.",
    )  # fmt: skip
    pictures = Pictures(library.workspace)
    static = {name: _static(__package__, f"static/{name}") for name in _STATIC}
    static["cards.css"] = _static("tvr_cli.engine.showing.page", "page.css")  # moments look here as in `--html`

    @app.exception_handler(TvrError)
    def refused(request: Request, error: Exception) -> JSONResponse:
        """Say what a command would have said on stderr."""
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 400)
        return JSONResponse({"error": str(error)}, status)

    @app.exception_handler(RequestValidationError)
    def unfit(request: Request, error: Exception) -> JSONResponse:
        """Say which value does not fit, as a command would of a flag."""
        assert isinstance(error, RequestValidationError)
        said = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
        return JSONResponse({"error": said}, 400)

    @app.exception_handler(HTTPException)
    def elsewhere(request: Request, error: Exception) -> JSONResponse:
        """Say in our own form what the framework refuses: mostly an address that is none."""
        assert isinstance(error, HTTPException)
        said = "there is no such address; /docs lists them" if error.status_code == 404 else str(error.detail)
        return JSONResponse({"error": said}, error.status_code, headers=dict(error.headers or {}))

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> JSONResponse:
        """Say that it is a bug, and go on."""
        log.logger.error("error: a bug in tvr: %s: %s (%s)", type(error).__name__, reason(error), request.url.path)
        return JSONResponse({"error": "a bug in tvr; the server's own output says which"}, 500)

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return static["page.html"]()

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return static["docs.html"]()

    @app.get("/static/{name}", include_in_schema=False)
    def file(name: str) -> Response:
        return static[name]() if name in static else JSONResponse({"error": "there is no such file"}, 404)

    @app.get("/api/library")
    def about() -> dict[str, Any]:
        """Say what is searched: the files, and how long they are together."""
        return library.about().to_json()

    @app.get("/api/watch")
    def watched() -> dict[str, Any]:
        """Say what `tvr watch` does in this workspace, and what failed; state none where none runs."""
        return watching.read(library.workspace).to_json()

    @app.get("/api/search")
    def search(
        q: Annotated[str, Query(max_length=_LONGEST)] = "",
        like: Several = (),
        plus: Several = (),
        minus: Several = (),
        inside: Several = (),
        newer: str | None = None,
        older: str | None = None,
        longer: float | None = None,
        shorter: float | None = None,
        k: Annotated[int, Query(ge=1, le=_MOST_K)] = 10,
        per_file: Annotated[int, Query(ge=0)] = 3,
        channel: str | None = None,
        confidence: Annotated[float | None, Query(ge=0, le=1)] = FOUND,
        everything: bool = False,
        curves: bool = False,
    ) -> dict[str, Any]:
        """Find moments: the answer of `tvr query --json`, with its flags. everything: the flag --all. curves: whether
        each moment comes with how well every second of its file fits.
        """
        _without_files(plus, minus)
        asked = {
            "like": like, "plus": plus, "minus": minus, "inside": inside, "newer": newer, "older": older,
            "longer": longer, "shorter": shorter, "k": k, "per_file": per_file, "channel": channel,
            "min_confidence": None if everything else confidence, "curves": curves,
        }  # fmt: skip
        said = {
            name: value for name, value in asked.items() if name == "min_confidence" or value not in ((), [], None, "")
        }
        return library.answer([q] if q.strip() else [], said).to_json()

    @app.post("/api/search")
    def search_by_picture(
        image: Annotated[UploadFile, File()],
        q: Annotated[str, Form(max_length=_LONGEST)] = "",
        k: Annotated[int, Form(ge=1, le=_MOST_K)] = 10,
        per_file: Annotated[int, Form(ge=0)] = 3,
        everything: Annotated[bool, Form()] = False,
        curves: Annotated[bool, Form()] = False,
    ) -> dict[str, Any]:
        """Find moments that look like a picture, with a sentence added to it where there is one."""
        with tempfile.TemporaryDirectory(prefix="tvr-") as folder:
            path = Path(folder) / "picture"
            path.write_bytes(image.file.read())
            asked = {
                "image": [path], "k": k, "per_file": per_file, "min_confidence": None if everything else FOUND,
                "curves": curves,
            }  # fmt: skip
            try:
                found = library.answer([q] if q.strip() else [], asked).to_json()
            except TvrError as e:  # where it was put for a moment tells nobody anything
                raise type(e)(str(e).replace(repr(str(path)), "the picture that was sent")) from e
        return _renamed(found, str(path), "a picture")

    @app.get("/api/picture", response_class=Response)
    def picture(video: str, at: float = 0.0) -> Response:
        """Return the frame of a file that is nearest to a second, as JPEG."""
        return Response(pictures.at(library.file(video).id, at), media_type="image/jpeg")

    @app.head("/media", include_in_schema=False)
    @app.get("/media", response_class=FileResponse)
    def media(video: str) -> Response:
        """Return a file of the library; with `Range`, a part of it."""
        path = library.file(video).path
        if not os.path.isfile(path):
            raise DataError(f"{path!r} was renamed, moved or deleted since it was indexed")
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        if not kind.startswith(("video/", "audio/")):  # whatever its name says, a browser is to run nothing of it
            kind = "application/octet-stream"
        return FileResponse(path, media_type=kind)

    return Guard(app, rules)


def _without_files(*parts: Sequence[str]) -> None:
    """Refuse a part that would be read from this machine: an address is no reason to open what it names."""
    for text in (text for some in parts for text in some):
        if any(isinstance(part.what, Picture) for part in _parts(text)):
            raise ConfigError("a picture is sent in the body of a request (POST /api/search), never named by a path")


def _parts(text: str) -> Iterator[Any]:
    for question in typed.questions([], plus=[text]):
        yield from question.parts


def _renamed(found: Mapping[str, Any], path: str, name: str) -> dict[str, Any]:
    """Return an answer in which a picture is not called by where it was put for a moment."""
    results = [{**one, "query": one["query"].replace(f"image:{path}", name)} for one in found["results"]]
    return {**found, "results": results}


def _static(package: str, name: str) -> Any:
    """Return a function that answers with a file of a package."""
    data = resources.files(package).joinpath(name).read_bytes()
    kind = {"html": "text/html", "css": "text/css", "js": "text/javascript"}[name.rpartition(".")[2]]
    return lambda: Response(data, media_type=f"{kind}; charset=utf-8")
