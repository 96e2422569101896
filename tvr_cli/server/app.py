"""The addresses of a server. Each answer is the JSON that the command of the same name prints, or bytes.

GET  /                     the page
GET  /api/library          what is searched
GET  /api/search           moments, as `tvr query --json`
POST /api/search           the same with a picture in the body
GET  /api/watch            what keeps it up to date, as `tvr watch --status --json`
GET  /api/picture          the frame nearest to a second of a file
GET  /media                a file of the library, or a part of it (byte ranges)
GET  /api/stream           a file from a second on, transcoded for a browser
GET  /api/clip             a moment as a file of its own
POST /api/clips            chosen moments saved as files, as `tvr query --save-clips`
POST /api/timeline         chosen moments for an editor, as `tvr query --export`
GET  /docs, /openapi.json  all of this for programs
"""

from __future__ import annotations

import json
import mimetypes
import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from anyio import from_thread
from fastapi import Depends, FastAPI, Form, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from tvr_cli import log
from tvr_cli.engine.showing.clips import track_of
from tvr_cli.errors import (
    ConfigError,
    DataError,
    EnvironmentProblem,
    Interrupted,
    TvrError,
    Unreadable,
    reason,
)
from tvr_cli.results.found import Hit, why_missing
from tvr_cli.server import unfit
from tvr_cli.server.encoders import Encoders
from tvr_cli.server.guard import Guard, Rules
from tvr_cli.server.library import Library
from tvr_cli.server.limits import LONGEST_PAD_S
from tvr_cli.server.pictures import Pictures
from tvr_cli.server.streams import Stream
from tvr_cli.server.taking import Gone, Taking, chosen
from tvr_cli.server.wanted import (
    Asked,
    AskedByPicture,
    ClipsWanted,
    Moment,
    TimelineWanted,
    names,
    require_known,
    unknown,
)  # fmt: skip
from tvr_cli.version import __version__
from tvr_cli.watching import status as watching

_STATIC = ("page.html", "style.css", "page.js", "scrub.js", "watch.js", "docs.html", "docs.css", "docs.js")
_STATUS = ((ConfigError, 400), (Unreadable, 503), (DataError, 404), (EnvironmentProblem, 503), (Interrupted, 503))

_MOST_LINES, _LONGEST_LINE = 20, 400  # of a header: browsers take some of them only


def create_app(library: Library, rules: Rules) -> Guard:
    """Return the app that serves a library, behind its guard."""
    app = FastAPI(
        title="tvr", version=__version__, docs_url=None, redoc_url=None,
        description="Search the moments of a library of videos. Everything stays on this machine.",
        dependencies=[Depends(require_known)],
    )  # fmt: skip
    pictures = Pictures(library.workspace)
    encoders = Encoders()
    taking = Taking(library.clips_folder, encoders)
    static = {name: _static(__package__, f"static/{name}") for name in _STATIC}
    # Moments look and play here as in `--html`.
    static["cards.css"] = _static("tvr_cli.engine.showing.page", "page.css")
    static["player.js"] = _static("tvr_cli.engine.showing.page", "player.js")

    @app.exception_handler(TvrError)
    def refused(request: Request, error: Exception) -> JSONResponse:
        """Say what a command would have said on stderr."""
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 400)
        return JSONResponse({"error": str(error)}, status)

    @app.exception_handler(RequestValidationError)
    def does_not_fit(request: Request, error: Exception) -> JSONResponse:
        """Say which value does not fit, as a command would of a flag."""
        assert isinstance(error, RequestValidationError)
        wrong = error.errors()
        if others := [str(one["loc"][-1]) for one in wrong if one["type"] == "extra_forbidden"]:
            known = [name for parameter in request.scope["route"].dependant.body_params for name in names(parameter)]
            return JSONResponse({"error": unknown(others[0], known)}, 422)
        return JSONResponse({"error": unfit.sentence(wrong)}, 400)

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
    def search(asked: Annotated[Asked, Query()], response: Response) -> dict[str, Any]:
        """Find moments: the answer of `tvr query --json`, with its flags. What the command would say on stderr stands
        in the header `tvr-said`, a list of JSON.
        """
        with log.told() as said:
            found = library.answer(asked.sentences, asked.flags()).to_json()
        response.headers.update(_said(said))
        return found

    @app.post("/api/search")
    def search_by_picture(asked: Annotated[AskedByPicture, Form()], response: Response) -> dict[str, Any]:
        """Find moments that look like a picture, with what else is asked added to it."""
        with tempfile.TemporaryDirectory(prefix="tvr-") as folder, log.told() as said:
            path = Path(folder) / "picture"
            path.write_bytes(asked.image.file.read())
            try:
                found = library.answer(asked.sentences, {**asked.flags(), "image": [path]}).to_json()
            except TvrError as e:  # where it was put for a moment tells nobody anything
                raise type(e)(str(e).replace(repr(str(path)), "the picture that was sent")) from e
        response.headers.update(_said(said))
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
        _require_there(path)
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        if not kind.startswith(("video/", "audio/")):  # whatever its name says, a browser is to run nothing of it
            kind = "application/octet-stream"
        return FileResponse(path, media_type=kind)

    @app.get("/api/stream", response_class=StreamingResponse)
    async def stream(
        request: Request, video: str, at: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 0.0
    ) -> Response:
        """Return a file of the library from a second on, transcoded on the way to what every browser plays: H.264 and
        AAC in a fragmented MP4, whose time 0 is that second.
        """
        file = await run_in_threadpool(library.file, video)
        _require_there(file.path)
        return await Stream.open(Path(file.path), at, track_of(file.id, file.path), encoders, request.is_disconnected)

    @app.get("/api/clip", response_class=StreamingResponse)
    def clip(
        request: Request,
        video: str,
        start: Annotated[float, Query(ge=0, allow_inf_nan=False)],
        end: Annotated[float, Query(ge=0, allow_inf_nan=False)],
        pad: Annotated[float, Query(ge=0, le=LONGEST_PAD_S)] = 0.0,
    ) -> Response:
        """Return a moment of a file as an MP4 of its own, with its sound: what `tvr query --save-clips` saves."""
        moment = Moment(video_id=video, start=start, end=end, peak=start)
        name, size, parts = taking.clip(chosen("", [_hit(moment, library)]), pad, _gone(request))
        return StreamingResponse(
            parts, media_type="video/mp4", headers={"content-length": str(size), **_attached(name)}
        )

    @app.post("/api/clips")
    def clips(request: Request, wanted: ClipsWanted) -> dict[str, Any]:
        """Save moments of an answer as files of the server's folder, numbered on from what is there: the answer of
        `tvr query --save-clips DIR --json`, whose `clips` say which are there, and why others are not.
        """
        found = chosen(wanted.query, [_hit(moment, library) for moment in wanted.moments])
        return taking.save(found, wanted.pad, _gone(request)).to_json()

    @app.post("/api/timeline", response_class=Response)
    def timeline(request: Request, wanted: TimelineWanted) -> Response:
        """Return moments of an answer as a file for an editor: what `tvr query --export` writes. What an editor will
        not find in it stands in the header `tvr-said`, a list of JSON.
        """
        found = chosen(wanted.query, [_hit(moment, library) for moment in wanted.moments])
        data, saved = taking.timeline(found, wanted.form, _gone(request))
        said = [f"not in it: the moments of {out.source!r}: {out.problem}" for out in saved.left_out]
        headers = {**_attached(saved.path.name), **_said([*said, *saved.notes])}
        return Response(data, media_type="application/octet-stream", headers=headers)

    return Guard(app, rules)


def _gone(request: Request) -> Gone:
    """Return what tells a thread that answers a request whether who sent it has gone."""
    return lambda: from_thread.run(request.is_disconnected)


def _hit(moment: Moment, library: Library) -> Hit:
    """Return a moment that was sent, with the path that the library has of its file. Raises DataError, ConfigError."""
    file = library.file(moment.video_id)
    if not moment.start < moment.end:
        raise ConfigError(f"expected a moment that ends after it starts, found {moment.start:g} to {moment.end:g}")
    if 0 < file.seconds < moment.start:
        raise ConfigError(
            f"expected a moment of {file.id!r}, which ends at {file.seconds:g} seconds, found {moment.start:g} to "
            f"{moment.end:g}"
        )
    return Hit(
        0, moment.score, file.id, file.path, moment.start, moment.end, moment.peak, moment.confidence,
        missing=not (os.path.isabs(file.path) and os.path.isfile(file.path)), channel=moment.channel, said=moment.said,
    )  # fmt: skip


def _require_there(path: str) -> None:
    if not os.path.isabs(path):  # an id alone, and no file of that name is meant
        raise DataError(f"{path!r} was {why_missing(path)}")
    if not os.path.isfile(path):
        raise DataError(f"{path!r} was renamed, moved or deleted since it was indexed")


def _attached(name: str) -> dict[str, str]:
    """Return the header that makes a browser keep what comes, under a name."""
    return {"content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}


def _said(lines: Sequence[str]) -> dict[str, str]:
    """Return the header of what is to be said beside an answer; none where there is nothing."""
    return {"tvr-said": json.dumps([line[:_LONGEST_LINE] for line in lines[:_MOST_LINES]])} if lines else {}


def _renamed(found: Mapping[str, Any], path: str, name: str) -> dict[str, Any]:
    """Return an answer in which a picture is not called by where it was put for a moment."""
    results = [{**one, "query": one["query"].replace(f"image:{path}", name)} for one in found["results"]]
    return {**found, "results": results}


def _static(package: str, name: str) -> Any:
    """Return a function that answers with a file of a package."""
    data = resources.files(package).joinpath(name).read_bytes()
    kind = {"html": "text/html", "css": "text/css", "js": "text/javascript"}[name.rpartition(".")[2]]
    return lambda: Response(data, media_type=f"{kind}; charset=utf-8")
