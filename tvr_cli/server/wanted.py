"""What a request may say: each parameter an address or a body has, by the names of `tvr query`'s flags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import HTTPException, Request, UploadFile
from pydantic import BaseModel, Field

from tvr_cli.api import FOUND
from tvr_cli.engine.searching import typed
from tvr_cli.engine.searching.question import Picture
from tvr_cli.errors import ConfigError, did_you_mean
from tvr_cli.server.limits import LONGEST, LONGEST_PAD_S, MOST_K
from tvr_cli.server.taking import TimelineForm

_AS_TYPED = (
    *("like", "plus", "minus", "inside", "newer", "older", "longer", "shorter"),
    *("k", "per_file", "channel", "curves"),
)

Several = Annotated[list[str], Field(max_length=16)]


class Asked(BaseModel, extra="forbid"):
    """A question, with the flags of `tvr query`. everything: its flag --all. curves: whether each moment comes with how
    well every second of its file fits.
    """

    q: str = Field("", max_length=LONGEST)
    like: Several = []
    plus: Several = []
    minus: Several = []
    inside: Several = []
    newer: str | None = None
    older: str | None = None
    longer: float | None = None
    shorter: float | None = None
    k: int = Field(10, ge=1, le=MOST_K)
    per_file: int = Field(3, ge=0)
    channel: str | None = None
    confidence: float | None = Field(FOUND, ge=0, le=1)
    everything: bool = False
    curves: bool = False

    @property
    def sentences(self) -> list[str]:
        return [self.q] if self.q.strip() else []

    def flags(self) -> dict[str, Any]:
        """Return the arguments of `OpenWorkspace.search` beside the sentence. Raises ConfigError for a part that would
        be read from this machine: an address is no reason to open what it names.
        """
        _require_no_files([*self.plus, *self.minus])
        said = self.model_dump(include=set(_AS_TYPED))
        said = {name: value for name, value in said.items() if value not in ([], None, "")}
        return {**said, "min_confidence": None if self.everything else self.confidence}


class AskedByPicture(Asked):
    """A question with a picture."""

    image: UploadFile


class Moment(BaseModel):
    """A moment as an answer has it; what else an answer says of it is not looked at."""

    video_id: str
    start: float = Field(ge=0, allow_inf_nan=False)
    end: float = Field(ge=0, allow_inf_nan=False)
    peak: float = Field(ge=0, allow_inf_nan=False)
    score: float = 0.0
    confidence: float | None = None
    channel: Literal["picture", "speech", "both"] = "picture"
    said: str | None = None


class Wanted(BaseModel, extra="forbid"):
    """Moments that were chosen in an answer. query: what it was to."""

    query: str = Field("", max_length=LONGEST)
    moments: list[Moment] = Field(min_length=1, max_length=MOST_K)


class ClipsWanted(Wanted):
    """pad: seconds before and after each moment."""

    pad: float = Field(0.0, ge=0, le=LONGEST_PAD_S)


class TimelineWanted(Wanted):
    """form: which file an editor is to read."""

    form: TimelineForm


def require_known(request: Request) -> None:
    """Refuse a parameter that an address does not have: it would be passed over, and who sent it misled."""
    known = [name for parameter in request.scope["route"].dependant.query_params for name in names(parameter)]
    if others := [name for name in request.query_params if name not in known]:
        raise HTTPException(422, unknown(others[0], known))


def names(parameter: Any) -> list[str]:
    """Return what a parameter is called in an address or a form: its name, or those of the fields of its model."""
    model = parameter.field_info.annotation
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else [parameter.alias]


def unknown(name: str, known: Sequence[str]) -> str:
    near = did_you_mean(name, known) or (f"; there are {', '.join(known)}" if known else "; there are none")
    return f"unknown parameter {name!r}{near}"


def _require_no_files(parts: Sequence[str]) -> None:
    if any(isinstance(part.what, Picture) for text in parts for part in _parts(text)):
        raise ConfigError("a picture is sent in the body of a request (POST /api/search), never named by a path")


def _parts(text: str) -> Iterator[Any]:
    for question in typed.questions([], plus=[text]):
        yield from question.parts
