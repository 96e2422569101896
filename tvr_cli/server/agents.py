"""Tools for agents, over the Model Context Protocol: search a library, describe it, look at a moment. Nothing else.

They read, and they read the library alone: a file is looked up by its id in the index and never opened by a name that
was sent, and no tool takes a path. The frame of a moment is one that the workspace has; no video is opened for it.
Whatever is refused is a sentence that the agent gets. Standard output carries the protocol and nothing else: the SDK
keeps it for itself while it serves, and what a library prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from PIL import Image
from pydantic import Field, ValidationError

from tvr_cli import log
from tvr_cli.api import FOUND
from tvr_cli.engine.searching import kept, query, resident
from tvr_cli.errors import EnvironmentProblem, TvrError, did_you_mean, reason
from tvr_cli.results.base import Result
from tvr_cli.server import unfit
from tvr_cli.server.library import Library
from tvr_cli.server.limits import LONGEST, MOST_K
from tvr_cli.server.pictures import Pictures
from tvr_cli.stores.index import place
from tvr_cli.stores.index.opened import OpenedIndex
from tvr_cli.version import __version__

MOST_BYTES = 400_000  # of a picture: an agent reads it as text, a third longer
_SIDE_PX, _QUALITY = 768, 80  # of one that is made smaller
_INSTRUCTIONS = (
    "Finds moments in a library of videos by what is seen in them (and said, where the words are known). Call describe "
    "first. Ask search with one plain sentence about what a picture shows, such as 'a dog runs on the beach'; its hits "
    "are sure, its nearest are not. Look at a moment with frame, by the video_id and peak of a hit."
)
_ASK = (
    "one sentence about what is seen, in plain words",
    "only some files: inside (globs such as 'holiday/*'), newer and older (dates), longer and shorter (seconds)",
    "everything=true, to get the nearest as hits whatever their confidence",
)
_F = TypeVar("_F", bound=Callable[..., Any])

Sentence = Annotated[str, Field(min_length=1, max_length=LONGEST, description="What is to be seen, in a sentence.")]
Globs = Annotated[list[str], Field(max_length=16, description="Only files that match one of these globs.")]
Date = Annotated[str | None, Field(max_length=40, description="A date, such as 2024-05-01, or 7d for a week ago.")]
Seconds = Annotated[float | None, Field(ge=0, description="A length of files in seconds.")]
Channel = Annotated[str | None, Field(max_length=20, description="picture, speech or both; default: what there is.")]
VideoId = Annotated[str, Field(min_length=1, max_length=4096, description="The video_id of a hit.")]


@dataclass(frozen=True, kw_only=True)
class LibraryDescription(Result):
    """What an agent is told of a library. clips, encoder, method: of its index, None before there is one.

    channels: that can be searched. watched: whether new videos are taken in as they come. ask: what can be asked.
    """

    schema = "library-description"
    videos: int
    hours: float
    clips: int | None
    encoder: str | None
    method: str | None
    channels: Sequence[str]
    watched: bool
    ask: Sequence[str] = _ASK
    tvr: str = __version__


class Tools:
    """What an agent may do with a library. Each raises what the commands raise."""

    def __init__(self, library: Library):
        self._library = library
        self._pictures = Pictures(library.workspace)

    def search(
        self,
        sentence: Sentence,
        k: Annotated[int, Field(ge=1, le=MOST_K, description="Moments of the answer.")] = 10,
        per_file: Annotated[int, Field(ge=0, description="Moments of one file at most; 0 = all.")] = 3,
        inside: Globs = [],  # noqa: B006 - never changed
        newer: Date = None,
        older: Date = None,
        longer: Seconds = None,
        shorter: Seconds = None,
        channel: Channel = None,
        confidence: Annotated[float, Field(ge=0, le=1, description="What has less is no hit, but nearest.")] = FOUND,
        everything: Annotated[bool, Field(description="Every moment is a hit, whatever its confidence.")] = False,
    ) -> dict[str, Any]:
        """Find the moments of the library that match a sentence: the answer of `tvr query --json`.

        Times are seconds in the file. Each hit has video_id, path, start, end, peak (where it is seen best), score and
        confidence (0 to 1). found is false where no moment is sure; the closest ones then stand under nearest.
        """
        asked = {
            "k": k, "per_file": per_file, "inside": list(inside), "newer": newer, "older": older, "longer": longer,
            "shorter": shorter, "channel": channel,
        }  # fmt: skip
        said = {name: value for name, value in asked.items() if value not in (None, [])}
        said["min_confidence"] = None if everything else confidence
        library = self._library
        whole = {"sentences": [sentence], **vars(library.named), **said}
        found = resident.ask(library.workspace, "search", whole) or library.answer([sentence], said)
        return found.to_json()

    def describe(self) -> dict[str, Any]:
        """Describe the library: how many videos and hours, which encoder searches it, and what can be asked."""
        library, folder = self._library, self._library.workspace.index_folder
        about, found = library.about(), place.standing(folder)
        made = {} if found is None else found.identity
        return LibraryDescription(
            videos=about.videos,
            hours=round(about.seconds / 3600, 2),
            clips=None if found is None or found.head is None else len(OpenedIndex.open(folder)),
            encoder=made.get("backbone"),
            method=made.get("method"),
            channels=["picture", "speech", "both"] if query.has_words(library.workspace) else ["picture"],
            watched=kept.by_watcher(library.workspace),
        ).to_json()

    def frame(
        self,
        video: VideoId,
        at: Annotated[float, Field(ge=0, description="The second, such as the peak of a hit.")],
    ) -> bytes:
        """Look at a moment: the stored frame of a video that is nearest to a second, as a JPEG."""
        return small(self._pictures.at(self._library.file(video).id, at))


def small(jpeg: bytes, most_bytes: int = MOST_BYTES) -> bytes:
    """Return a picture as it is, or smaller where it has more bytes than an agent is sent."""
    side = _SIDE_PX
    while len(jpeg) > most_bytes and side >= 16:
        picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
        picture.thumbnail((side, side))
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=_QUALITY)
        jpeg, side = out.getvalue(), side // 2
    return jpeg


def create(library: Library) -> Any:
    """Return the SDK's server with the tools. Raises EnvironmentProblem without the extra `mcp`."""
    server_of, refusal, picture_of, hints = _sdk()
    tools = Tools(library)
    server = _speaking(server_of, refusal)("tvr", version=__version__, instructions=_INSTRUCTIONS, log_level="WARNING")
    reading = hints(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)

    def frame(video: VideoId, at: Annotated[float, Field(ge=0)]) -> Any:
        return picture_of(data=tools.frame(video, at), format="jpeg")

    frame.__doc__ = Tools.frame.__doc__
    frame.__annotations__ = {**Tools.frame.__annotations__, "return": "Any"}
    for tool, structured in ((tools.search, True), (tools.describe, True), (frame, False)):
        server.add_tool(_saying(tool, refusal), annotations=reading, structured_output=structured)
    return server


def serve(library: Library) -> None:
    """Answer an agent on standard input and output until it closes them. Raises as `create` does."""
    server = create(library)
    log.logger.info("answering an agent about %s (it ends with its standard input)", library.workspace)
    with contextlib.suppress(KeyboardInterrupt):
        server.run("stdio")


def _speaking(server_of: Any, refusal: type[Exception]) -> Any:
    """Return the SDK's server with our own words for arguments that do not fit, and for tools that are not there."""

    class Speaking(server_of):
        async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
            known = [tool.name for tool in await self.list_tools()]
            if name not in known:
                near = did_you_mean(name, known) or f"; there are {', '.join(known)}"
                raise refusal(f"there is no tool {name!r}{near}")
            try:
                return await super().call_tool(name, arguments, context)
            except refusal as e:
                if not isinstance(wrong := e.__cause__, ValidationError):
                    raise
                raise refusal(unfit.sentence(wrong.errors())) from wrong

    return Speaking


def _saying(tool: _F, refusal: type[Exception]) -> _F:
    """Return a tool whose errors are sentences for the agent, and that lets no other out."""

    @functools.wraps(tool)
    def answering(*args: Any, **named: Any) -> Any:
        try:
            return tool(*args, **named)
        except TvrError as e:
            raise refusal(str(e)) from e
        except Exception as e:
            log.logger.error("error: a bug in tvr: %s: %s (%s)", type(e).__name__, reason(e), tool.__name__)
            raise refusal("a bug in tvr; its standard error says which") from e

    return cast(_F, answering)


def _sdk() -> tuple[Any, type[Exception], Any, Any]:
    """Return what is used of the SDK: the server, the error that an agent is told of, a picture, hints about a tool."""
    try:
        from mcp.server.mcpserver import Image as SentImage
        from mcp.server.mcpserver import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
        from mcp.types import ToolAnnotations
    except ImportError as e:
        raise EnvironmentProblem(
            f"tvr mcp needs the package mcp, version 2 or later ({reason(e)}); install the extra: "
            "pip install 'tvr-cli[mcp]'"
        ) from e
    return MCPServer, ToolError, SentImage, ToolAnnotations
