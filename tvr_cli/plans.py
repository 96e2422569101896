"""What stores hold: which frames, which token slots, which features. No torch.

A plan comes from a preset or an experiment (what is asked for) or from a store's identity (what is there). Three plans
and the backbone are the identity of a feature store; `differences` names the fields in which two identities differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from tvr_cli import commands
from tvr_cli.defaults import is_one_of, named_backbone
from tvr_cli.errors import ConfigError
from tvr_cli.imported import Imported
from tvr_cli.types import Filter, Look, View

if TYPE_CHECKING:
    from tvr_cli.config import Experiment, FramesConfig, WordsConfig

DEFAULT_WORDS = 32
Fit = Literal["crop", "squash", "whole"]
# How a picture is brought to its size, in the words that an identity says it in.
_FITS: dict[Fit, str] = {
    "crop": "short side, centre crop",
    "squash": "both sides",
    "whole": "short side, never enlarged",
}
# The fields of a kind that decide which frames are kept.
_CHOICE = {"uniform": ("num_frames",), "fps": ("fps", "max_frames"), "timeline": ("fps", "num_frames")}
_ALIKE = 5.0  # of 255 levels: noise and compression stay below it, another slide or a moving hand does not
_COARSE, _DETAIL = 1.0, 4.0  # frames a second of a folder of one's own, and where its pictures change
_SMALLEST, _LARGEST = 16, 2048
_NUM_FRAMES, _FRAME_SIZE = 12, 224  # where neither a flag nor a data set says otherwise

# ------------------------------------------------------------------------------------------------------------- frames


@dataclass(frozen=True, slots=True)
class FramePlan:
    """Which frames of a clip are kept, and how they are stored. Part of a store's identity.

    uniform: frame floor((i + 1/2) n / num_frames). fps: decode at `fps`, then floor(linspace(0, n - 1, max_frames)) if
    there are more. timeline: a file's frames at `fps`, each stored once; a clip is a view of them, with the frames on
    screen in the middle of `num_frames` equal parts of it. alike: how much a mean over a cell of 16 x 16 may differ, in
    levels of grey, from the last frame kept, for a frame to be left out; None = all are kept. detail: the rate at which
    a file is looked at, where that is finer than `fps`: up to so many frames are kept where its pictures change
    (`stores/decoding/alike.py`); None = no finer. No frame is ever repeated. quality: JPEG quality.
    fit: crop (the short side to `size`, then the centre), squash (both sides to `size`) or whole (nothing is cut off:
    the short side to `short_side`, which is `size`; a smaller picture stays as it is, so that an encoder's own filter
    enlarges it). filter: how Pillow resizes. look: the pixels as they are coded, or as players show them (square, HDR
    mapped to the usual range, BT.709 for HD that names no matrix). A field that tvr 0.1.0 did not have is left out of
    the identity at the value that 0.1.0 knew, so its fingerprints stay.
    """

    kind: Literal["uniform", "fps", "timeline"] = "uniform"
    num_frames: int = 12
    fps: float | None = None
    max_frames: int | None = None
    size: int = 224
    quality: int = 90
    fit: Fit = "crop"
    filter: Filter = "bicubic"
    short_side: int | None = None
    look: Look = "coded"
    alike: float | None = None
    detail: float | None = None

    @classmethod
    def from_config(cls, frames: FramesConfig) -> FramePlan:
        """Return the plan that an experiment or a preset asks for; what it leaves open is the default."""
        return cls(**_said(frames))

    @classmethod
    def from_identity(cls, identity: Mapping[str, Any]) -> FramePlan:
        """Return the plan that the identity of a frame store describes."""
        known = {f.name for f in dataclasses.fields(cls)}
        said = {name: value for name, value in identity.items() if name in known}
        if "filter" in said:  # the whole sentence: `pillow-bicubic short side, …`
            said["filter"] = said["filter"].split(" ")[0].removeprefix("pillow-")
        return cls(**said)

    @property
    def slots(self) -> int | None:
        """F, the largest number of frames a clip can have, or None when the plan does not bound it."""
        return self.max_frames if self.kind == "fps" else self.num_frames

    @property
    def has_timelines(self) -> bool:
        """Whether the clips of a file share its frames, which are kept by time."""
        return self.kind == "timeline"

    @property
    def choice(self) -> str:
        """Which frames are kept, for people."""
        if self.kind == "uniform":
            return f"{self.num_frames} spread evenly over each clip"
        most = "" if self.max_frames is None else f", at most {self.max_frames} of a clip"
        more = "" if self.detail is None else f", up to {self.detail:g} where pictures change"
        return f"{self.fps:g} a second{most}{more}"

    @property
    def pictures(self) -> str:
        """What is kept of a picture, for people."""
        shape = f"short side {self.size}" if self.fit == "whole" else f"{self.size} x {self.size}"
        look = ", as players show it" if self.look == "shown" else ""
        return f"{self.fit}, {shape} px, {self.filter}, JPEG {self.quality}{look}"

    def flags(self) -> dict[str, int | float | None]:
        """Return the flags of `tvr extract-frames` with which frames of this plan go on.

        Size and kind of pictures go on unasked.
        """
        usual = FramePlan()
        chosen = {"fps": self.fps, "max_frames": self.max_frames} if self.kind == "fps" else {}
        if self.kind == "uniform" and self.num_frames != usual.num_frames:
            chosen = {"num_frames": self.num_frames}
        return {**chosen, **({"quality": self.quality} if self.quality != usual.quality else {})}

    def identity(self) -> dict[str, Any]:
        """Return the identity of a store made with this plan: only the fields that decide which pixels it holds."""
        said = {name: getattr(self, name) for name in ("kind", *_CHOICE[self.kind], "size", "quality")}
        said["filter"] = f"pillow-{self.filter} {_FITS[self.fit]}, rgb, jpeg 4:2:0"
        if self.fit != "crop":
            said["fit"] = self.fit
        if self.short_side is not None:
            said["short_side"] = self.short_side
        if self.look != "coded":
            said["look"] = self.look
        if self.alike is not None:
            said["alike"] = self.alike
        if self.detail is not None:
            said["detail"] = self.detail
        return said

    def check(self) -> None:
        """Raise ConfigError when the plan cannot be carried out."""
        if self.kind != "fps" and self.num_frames < 1:
            raise ConfigError(f"--num-frames: expected 1 or more, found {self.num_frames}")
        if self.kind != "uniform" and not (self.fps is not None and 0 < self.fps <= 1000):
            raise ConfigError(f"--fps: expected a rate above 0 and up to 1000, found {self.fps}")
        if self.detail is not None and self.fps is not None and not self.fps < self.detail <= 1000:
            raise ConfigError(
                f"--detail: expected a rate above that of --fps ({self.fps:g} frames a second) and up to 1000, or 0 "
                f"for none, found {self.detail:g}"
            )
        if self.max_frames is not None and self.max_frames < 1:
            raise ConfigError(f"--max-frames: expected 1 or more, found {self.max_frames}")
        if not _SMALLEST <= self.size <= _LARGEST:
            raise ConfigError(f"--size: expected {_SMALLEST} to {_LARGEST} pixels, found {self.size}")
        if not 1 <= self.quality <= 95:
            raise ConfigError(f"--quality: expected 1 to 95, found {self.quality}")
        if later := self.unsupported():
            raise ConfigError(f"frames with {later} cannot be made: expected {' or '.join(_FITS)}, with a known filter")

    def unsupported(self) -> str:
        """Return the fields whose values this version neither makes nor reads, in words; empty = all is well."""
        known = {
            "fit": self.fit in _FITS,
            "filter": self.filter in get_args(Filter),
            "short_side": self.short_side == (self.size if self.fit == "whole" else None),
            "look": self.look in get_args(Look),
        }
        return ", ".join(f"{name} = {getattr(self, name)!r}" for name, is_known in known.items() if not is_known)

    def serves(self, view: View) -> bool:
        """Return whether an encoder's view can be made of such frames: they show what it shows, and as much of it."""
        return self.fit in ("whole", view.fit) and self.size >= view.size


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedFrames:
    """The flags that choose frames; None where one was not given.

    view: what the encoder of `--for` sees. takes: the one number of frames a clip that it takes, None = any. keep_all:
    a timeline keeps frames that look like the one before. detail: 0 = no finer than `fps`.
    """

    num_frames: int | None = None
    fps: float | None = None
    detail: float | None = None
    max_frames: int | None = None
    size: int | None = None
    fit: Fit | None = None
    view: View | None = None
    takes: int | None = None
    quality: int = 90
    keep_all: bool = False

    @property
    def says_picture(self) -> bool:
        """Whether a flag says what becomes of a picture."""
        return self.fit is not None or self.view is not None

    @property
    def says_choice(self) -> bool:
        """Whether a flag says which frames are kept."""
        said = (self.num_frames, self.fps, self.detail, self.max_frames, self.takes)
        return self.keep_all or any(flag is not None for flag in said)

    def plan(self, preset: FramesConfig | None = None, there: FramePlan | None = None) -> FramePlan:
        """Return the plan. preset: the data set's own, which holds where no flag says otherwise: papers crop.

        there: that of the frames that a folder of one's own is added to, which go on as they are where neither flag nor
        preset says otherwise. With nothing of all that pictures are kept whole, and as players show them; a data set's
        are as they are coded, which is what its papers saw. A folder of one's own gets a timeline, of a frame a second
        and more where pictures change, or at the rate that is given alone. Raises ConfigError for flags that exclude
        each other; `FramePlan.check` is about their values.
        """
        if self.num_frames is not None and self.fps is not None:
            raise ConfigError("--num-frames and --fps are two ways to choose frames; give one of them")
        self._require_detail_of_a_timeline(preset)
        num_frames, fps, max_frames = self.num_frames, self.fps, self.max_frames
        if preset is not None and num_frames is None and fps is None:
            num_frames = preset.num_frames
            if preset.kind == "fps":
                num_frames, fps = None, preset.fps
                max_frames = max_frames if max_frames is not None else preset.max_frames
        if self.takes is not None:
            self._require_taken()
            num_frames, fps, max_frames = (None, fps, max_frames) if self.fps is not None else (self.takes, None, None)
        picture = self._picture(preset, there)
        if self.view is not None and not FramePlan(num_frames=_NUM_FRAMES, **picture).serves(self.view):
            size, fit = picture["size"], picture["fit"]
            raise ConfigError(
                f"--for names a backbone that takes {self.view.size} px ({self.view.fit}), and cannot use pictures of "
                f"{size} px ({fit}), which --fit and --size ask for; leave these out, or --for"
            )
        if there is not None and preset is None and not self.says_choice:
            return dataclasses.replace(there, quality=self.quality, **picture)
        if preset is None and num_frames is None and fps is None and max_frames is None and not self.keep_all:
            return self._timeline(_COARSE, _DETAIL if self.detail is None else self.detail, picture)
        timeline = fps is not None and max_frames is None and preset is None and (there is None or there.kind != "fps")
        if self.keep_all and not timeline:
            raise ConfigError("--keep-all is about the frames of a timeline; give --fps with it, and no --max-frames")
        if timeline and fps is not None:
            return self._timeline(fps, self.detail or 0.0, picture)
        if fps is not None:
            return FramePlan("fps", fps=fps, max_frames=max_frames, quality=self.quality, **picture)
        if max_frames is not None:
            raise ConfigError("--max-frames goes with --fps; use --num-frames for frames spread evenly over the clip")
        num_frames = num_frames if num_frames is not None else _NUM_FRAMES
        return FramePlan("uniform", num_frames=num_frames, quality=self.quality, **picture)

    def _timeline(self, fps: float, detail: float, picture: Mapping[str, Any]) -> FramePlan:
        """Return a plan of frames by time. detail: 0 = no finer."""
        alike = None if self.keep_all else _ALIKE
        return FramePlan("timeline", fps=fps, detail=detail or None, quality=self.quality, alike=alike, **picture)

    def _require_detail_of_a_timeline(self, preset: FramesConfig | None) -> None:
        """Raise ConfigError where `detail` stands beside flags, or a data set, whose frames are not kept by time."""
        if self.detail is None:
            return
        others = {
            "--num-frames": self.num_frames, "--max-frames": self.max_frames, "--data": preset,
            "--for": self.takes, "--keep-all": self.keep_all or None,
        }  # fmt: skip
        if beside := [flag for flag, value in others.items() if value is not None]:
            why = {
                "--data": "the frames of a data set are those of its protocol",
                "--for": f"names a backbone that takes {self.takes} frames a clip",
                "--keep-all": "keeps every frame at the rate of --fps",
            }
            raise ConfigError(
                "--detail is about frames by time, of which more are kept where pictures change; leave it out, or "
                f"{beside[0]}" + (f" ({why[beside[0]]})" if beside[0] in why else "")
            )

    def _require_taken(self) -> None:
        """Raise ConfigError where flags ask for another number of frames than the encoder of `--for` takes."""
        asked = {"--num-frames": self.num_frames, "--max-frames": self.max_frames}
        for flag, number in asked.items():
            if number not in (None, self.takes):
                raise ConfigError(
                    f"--for names a backbone that takes {self.takes} frames a clip, and {flag} asks for {number}; "
                    f"leave out {flag}, or --for"
                )
        if self.fps is not None and self.max_frames is None:
            raise ConfigError(
                f"--for names a backbone that takes {self.takes} frames a clip, and --fps alone gives any number; add "
                f"--max-frames {self.takes}, or leave out --fps"
            )

    def _picture(self, preset: FramesConfig | None, there: FramePlan | None) -> dict[str, Any]:
        """Return size, fit, filter, short side and look."""
        look: Look = "coded" if preset is not None else "shown" if there is None else there.look
        if there is not None and preset is None and not self.says_picture:
            size, fit, resample = self.size or there.size, there.fit, there.filter
        else:
            fit = self.fit or ("crop" if preset is not None and self.view is None else "whole")
            # What is kept whole serves more than one encoder, and none is smaller than the usual size.
            usual = (preset.size if preset is not None else None) or _FRAME_SIZE
            needed = usual if self.view is None else max(usual, self.view.size) if fit == "whole" else self.view.size
            size = self.size if self.size is not None else needed
            resample = self.view.filter if self.view is not None and fit != "whole" else "bicubic"
        short_side = size if fit == "whole" else None
        return {"size": size, "fit": fit, "filter": resample, "short_side": short_side, "look": look}


# ----------------------------------------------------------------------------------------------------------- features


@dataclass(frozen=True, slots=True)
class WordPlan:
    """How many token slots a caption keeps: all `length` of them, pads included (fixed), or the real ones (ragged)."""

    shape: Literal["fixed", "ragged"] = "fixed"
    length: int = DEFAULT_WORDS


@dataclass(frozen=True, kw_only=True)
class PrecomputeOptions:
    """How to compute features.

    dtype: how they are stored. shape: `fixed` keeps missing frames and pad tokens, `ragged` the real ones. words: shape
    of the token features, None = as `shape`. max_words: token slots L, None = 32 or the context if shorter. patches:
    keep those of frames too. precision: arithmetic of the towers. batch: frames a forward pass, None = by device.
    shard: (i, n), this run's part of the clips, without captions.
    """

    dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    shape: Literal["fixed", "ragged"] = "fixed"
    words: Literal["fixed", "ragged"] | None = None
    max_words: int | None = None
    temporal_shift: bool = False
    patches: bool = False
    word_importance: str = "none"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    batch: int | None = None
    device: str = "auto"
    offline: bool = False
    shard: tuple[int, int] = (1, 1)

    def as_made(self, identity: Mapping[str, Any], provenance: Mapping[str, Any]) -> PrecomputeOptions:
        """Return these options with the plans, number format and arithmetic that a feature store was made with."""
        return dataclasses.replace(
            self,
            shape=identity["shape"],
            words=identity["words"]["shape"],
            max_words=identity["words"]["length"],
            temporal_shift=bool(identity["backbone"].get("temporal_shift")),
            patches=bool(identity.get("patches")),
            word_importance=identity["importance"],
            dtype=provenance.get("dtype", self.dtype),
            precision=provenance.get("precision", self.precision),
        )


@dataclass(frozen=True)
class FeaturePlan:
    """What a feature store holds of each clip and caption.

    slots: F, None where frames are ragged. importance: the rule that marks content words, with its version. patches:
    whether those of frames are kept.
    """

    shape: Literal["fixed", "ragged"]
    slots: int | None
    words: WordPlan
    importance: str
    patches: bool = False

    @classmethod
    def make(cls, options: PrecomputeOptions, frames: FramePlan, *, backbone: str, context: int) -> FeaturePlan:
        """Return the plan that options ask for, on frames of a plan and for a backbone of `context` token slots.

        Raises ConfigError for a plan that contradicts itself, the frames or the backbone.
        """
        if options.shape == "fixed" and frames.slots is None:
            raise ConfigError(
                "--shape fixed needs a largest number of frames a clip, and these frames have none; use --shape "
                "ragged, or run: "
                + commands.tvr("extract-frames", commands.VIDEOS, fps=frames.fps, max_frames=12, overwrite=True)
            )
        if options.temporal_shift and options.shape != "fixed":
            raise ConfigError("--temporal-shift mixes the frames of whole clips; it needs --shape fixed")
        length = options.max_words or default_words(context)
        if not 3 <= length <= context:
            raise ConfigError(f"--max-words: expected 3 to {context}, the context of {backbone}, found {length}")
        words = WordPlan(options.words or options.shape, length)
        slots = frames.slots if options.shape == "fixed" else None
        return cls(options.shape, slots, words, options.word_importance, options.patches)

    @property
    def extra(self) -> set[str]:
        """What a store of this plan provides besides what its backbone does unasked."""
        asked = {"importance": self.importance != "none", "video.patches": self.patches}
        return {name for name, wanted in asked.items() if wanted}

    def identity(self, backbone: Mapping[str, Any], frames: Mapping[str, Any]) -> dict[str, Any]:
        """Return the identity of a store: of this plan, a backbone and the frames that it was made from.

        Patches are said where they are kept: stores that were made before there were any keep their fingerprints.
        """
        return {
            "backbone": backbone,
            "frames": dict(frames),
            "shape": self.shape,
            "words": {"shape": self.words.shape, "length": self.words.length},
            "importance": self.importance,
            **({"patches": True} if self.patches else {}),
        }


def default_words(context: int) -> int:
    """Return the token slots L of a plan that names none, for a backbone of `context` slots."""
    return min(DEFAULT_WORDS, context)


# ------------------------------------------------------------------------------------------------------- what is asked


@dataclass(frozen=True)
class Wish:
    """What an experiment asks of its features; None, and a field that is not there = whatever there is."""

    backbone: str | None
    temporal_shift: bool | None
    shape: Literal["fixed", "ragged"] | None
    frames: dict[str, Any]
    words: dict[str, Any]
    importance: str | None
    patches: bool | None = None

    @classmethod
    def from_experiment(cls, experiment: Experiment, needs: Collection[str]) -> Wish:
        """Read off an experiment what its features must be. needs: those of its method (`Method.needs`)."""
        words = _said(experiment.words)
        importance = words.pop("importance", None) or ("stopwords" if "importance" in needs else None)
        return cls(
            named_backbone(experiment.backbone.name),
            experiment.backbone.temporal_shift,
            experiment.shape,
            _said(experiment.frames),
            words,
            importance,
            True if "video.patches" in needs else None,
        )

    def differences(self, identity: Mapping[str, Any], backbone: str) -> list[str]:
        """Return, in words, what keeps the features of an identity from being the ones; empty = they fit.

        backbone: what it was called when the features were made; the identity has its own name.
        """
        frames = identity["frames"]
        if Imported.from_identity(frames) is None:
            frames = dataclasses.asdict(FramePlan.from_identity(frames))
        there = {
            "shape": identity.get("shape"),
            "words": {**identity["words"], "importance": identity["importance"]},
            "backbone": {"temporal_shift": identity["backbone"].get("temporal_shift")},
            "frames": frames,
            "patches": bool(identity.get("patches")),
        }
        asked = {
            "shape": self.shape,
            "words": {"importance": self.importance},
            "backbone": {"temporal_shift": self.temporal_shift},
            "frames": self.frames,
            "patches": self.patches,
        }
        wanted = {name: value for name, value in _leaves(asked).items() if value is not None}
        wanted |= {f"words.{name}": value for name, value in self.words.items()}
        found = _leaves(there)
        told = [
            f"{d.field} is {d.found!r}, {d.wanted!r} is wanted"
            for d in differences({name: found.get(name) for name in wanted}, wanted)
        ]
        if self.backbone is not None and not is_one_of(self.backbone, (backbone, identity["backbone"]["name"])):
            told.insert(0, f"its backbone is {backbone}, {self.backbone} is wanted")
        return told

    def options(self, *, device: str = "auto", offline: bool = False) -> PrecomputeOptions:
        """Return how to compute the features that are asked for; what is left open is the default."""
        return PrecomputeOptions(
            shape=self.shape or "fixed",
            words=self.words.get("shape"),
            max_words=self.words.get("length"),
            temporal_shift=bool(self.temporal_shift),
            patches=bool(self.patches),
            word_importance=self.importance or "none",
            device=device,
            offline=offline,
        )


def of_dataset(name: str) -> tuple[FramesConfig, WordsConfig]:
    """Return what a data set's preset says of frames and words: None where it leaves a value open or there is none."""
    from tvr_cli import config  # YAML with it; a query reads plans off stores alone

    sections = config.preset_sections("datasets", name, {"frames": config.FramesConfig, "words": config.WordsConfig})
    return config.FramesConfig(**sections["frames"]), config.WordsConfig(**sections["words"])


# --------------------------------------------------------------------------------------------------------- differences


@dataclass(frozen=True)
class Difference:
    """A field of an identity, by its dotted path, with the value that is there and the one that is wanted."""

    field: str
    found: Any
    wanted: Any


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Difference]:
    """Return the fields in which two identities differ, those of `wanted` first; a field that is missing is None."""
    there, asked = _leaves(found), _leaves(wanted)
    return [
        Difference(name, there.get(name), asked.get(name))
        for name in dict.fromkeys((*asked, *there))
        if there.get(name) != asked.get(name)
    ]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        out.update(_leaves(value, path + ".") if isinstance(value, Mapping) else {path: value})
    return out


def _said(section: FramesConfig | WordsConfig) -> dict[str, Any]:
    return {name: value for name, value in vars(section).items() if value is not None}
