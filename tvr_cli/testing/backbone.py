"""What every backbone must hold, whatever its library (`backbones.base` says why). Each clause takes a `Subject`.

The backbone is loaded once, on the CPU in fp32; frames are random pixels, captions plain English. Features of one item
computed in different company may differ by rounding: 1e-4 of the largest of them is allowed.
"""

from __future__ import annotations

import json
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tvr_cli.backbones import registry
from tvr_cli.backbones.base import PROVIDES, Backbone, Description, VideoOut
from tvr_cli.errors import ConfigError
from tvr_cli.testing.report import BrokenContract, Check, require, run

CAPTIONS = ("a dog", "two red squares move slowly to the left of a big blue circle", "rain")
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Subject:
    """A backbone's name, what it means, and the backbone."""

    name: str
    about: Description
    backbone: Backbone

    @property
    def length(self) -> int:
        """Token slots that the captions are given: a plan's usual 32, or the context if shorter."""
        return min(32, self.about.context_length)

    @property
    def frames(self) -> int:
        """Frames of the clips that it is given."""
        return self.about.frames or 3

    @property
    def mixes_frames(self) -> bool:
        """Whether it encodes whole clips, so that a frame has no features of its own."""
        return "video.pooled" in self.about.provides


def load(name: str, *, offline: bool = False) -> Subject:
    """Load what the clauses look at. Raises what `registry.load` raises."""
    return Subject(name, registry.resolve(name), registry.load(name, offline=offline))


def check(name: str, *, offline: bool = False) -> list[Check]:
    """Run every clause on a backbone. Raises ConfigError when there is none of this name, EnvironmentProblem without
    its weights.
    """
    return run(CLAUSES, load(name, offline=offline))


# ----------------------------------------------------------------------------------------- before the weights are there


def a_name_is_described_without_network(subject: Subject) -> None:
    """Lists, plans and dry runs ask for it, offline too."""

    def refuse(*where: Any, **_: Any) -> None:
        raise BrokenContract(f"expected that describe() opens no connection, found one to {where[-1]}")

    with mock.patch.object(socket.socket, "connect", refuse), mock.patch.object(socket, "getaddrinfo", refuse):
        about = registry.resolve(subject.name)
    require(isinstance(about, Description), f"expected a Description from describe(), found {type(about).__name__}")
    require(about.name == subject.name, f"expected the name {subject.name!r} in its description, found {about.name!r}")
    for field in ("dim", "image_size", "context_length"):
        value = getattr(about, field)
        require(isinstance(value, int) and value > 0, f"expected a number above 0 as {field}, found {value!r}")
    require(about.context_length >= 3, f"expected a context of 3 tokens or more, found {about.context_length}")
    require(about.source, "expected words on where its weights come from (source)")
    kind = type(subject.backbone)
    require(about.kind is kind, f"expected that kind is the class that is loaded, {kind.__name__}, found {about.kind}")


def provides_names_what_there_is(subject: Subject) -> None:
    """Methods and hints go by it; every store needs pooled text, and frames or one vector a clip."""
    found = subject.about.provides
    require(isinstance(found, frozenset), f"expected a frozenset as provides, found {type(found).__name__}")
    unknown = sorted(found - PROVIDES)
    require(not unknown, f"expected provides among {', '.join(sorted(PROVIDES))}, found {', '.join(unknown)}")
    require("pooled" in found, "expected that it provides pooled, found no pooled")
    seen = {"frames", "video.pooled"} & found
    require(bool(seen), "expected that it provides frames, or video.pooled; found neither")
    frames = subject.about.frames
    require(
        frames is None or (isinstance(frames, int) and frames > 0), f"expected a number of frames, found {frames!r}"
    )
    timed = subject.about.timed and "video.pooled" not in found
    require(not timed, "expected that an encoder that is told times (timed) provides video.pooled, and it does not")


def an_identity_is_json_and_stable(subject: Subject) -> None:
    """It is the hash that names a feature store, so it is the same in the next process, before and after loading."""
    identity = subject.backbone.identity()
    try:
        again = json.loads(json.dumps(identity))
    except TypeError as e:
        raise BrokenContract(f"expected an identity that JSON can hold: {e}") from e
    require(again == identity, f"expected an identity that JSON gives back as it was, found {again} for {identity}")
    require(isinstance(identity.get("name"), str), "expected the model's name in its identity, as `name`")
    shifted = identity.get("temporal_shift")
    require(shifted is False, f"expected `temporal_shift: false` in a plain backbone's identity, found {shifted!r}")
    require(subject.backbone.identity() == identity, "expected the same identity when it is asked again")
    if subject.about.weights is not None:
        before = subject.about.kind.identify(subject.about, temporal_shift=False)
        require(before == identity, f"expected one identity before and after loading, found {before} and {identity}")


def a_skeleton_has_the_parameters_of_the_loaded_one(subject: Subject) -> None:
    """A dry run lists them, sorts them into groups and counts the bytes of checkpoints."""
    skeleton, loaded = registry.skeleton(subject.about), subject.backbone
    there, here = ({k: list(v.shape) for k, v in m.named_parameters()} for m in (skeleton, loaded))
    odd = sorted(k for k in there.keys() | here.keys() if there.get(k) != here.get(k))
    told = f"{odd[0]} is {there.get(odd[0])} of the skeleton, {here.get(odd[0])} of the loaded one" if odd else ""
    require(not odd, f"expected the same parameters, found {len(odd)} that differ: {told}")


def a_skeleton_knows_what_encoding_costs(subject: Subject) -> None:
    """Operations of a frame and of a caption, from which the time is estimated."""
    skeleton = registry.skeleton(subject.about)
    cost, more = skeleton.cost(3), skeleton.cost(subject.about.context_length)
    for what, found in zip(("a frame", "a caption"), cost, strict=True):
        require(isinstance(found, int) and found > 0, f"expected a number of operations of {what}, found {found!r}")
    require(more[0] == cost[0], f"expected that a frame's cost is that of any words, found {cost[0]} and {more[0]}")
    require(more[1] >= cost[1], f"expected that longer captions cost no less, found {cost[1]} and {more[1]}")


def versions_are_text(subject: Subject) -> str | None:
    """A store's provenance says what computed it."""
    versions = subject.about.kind.versions()
    fits = isinstance(versions, dict) and all(isinstance(x, str) for pair in versions.items() for x in pair)
    require(fits, f"expected that versions() maps packages to versions, found {versions!r}")
    return None if versions else "it names no library, so a store's provenance will not either"


# ----------------------------------------------------------------------------------------------------------- features


def captions_become_padded_ids(subject: Subject) -> None:
    """Zero-padded to the plan's length, cut to it where a caption is longer, and counted."""
    backbone, length = subject.backbone, subject.length
    ids, n_tokens = backbone.tokenize([*CAPTIONS, ""], length)
    count = backbone.count_tokens([*CAPTIONS, ""])
    _shape("ids of 4 captions", ids, (4, length))
    _shape("n_tokens of 4 captions", n_tokens, (4,))
    require(ids.dtype == n_tokens.dtype == count.dtype == torch.int64, "expected ids and counts in int64")
    cut = count.clamp(max=length)
    require(torch.equal(n_tokens, cut), f"expected {cut.tolist()} tokens of {length} slots, found {n_tokens.tolist()}")
    require(bool((n_tokens > 0).all()), "expected a token or more of every caption, the empty one too (a start token)")
    pads = torch.arange(length) >= n_tokens[:, None]
    require(bool((ids[pads] == 0).all()), "expected zeros in the slots behind a caption's tokens")
    short, n_short = backbone.tokenize(CAPTIONS, 3)
    _shape("ids cut to 3 slots", short, (3, 3))
    require(bool((n_short <= 3).all()), f"expected 3 tokens at most of 3 slots, found {n_short.tolist()}")


def words_and_their_pieces_add_up(subject: Subject) -> str | None:
    """Marks of content words (`--word-importance`) go by them."""
    for text in CAPTIONS:
        try:
            pieces = subject.backbone.word_pieces(text)
        except ConfigError:
            return "it cannot say which tokens belong to a word: methods that need importance cannot use it"
        found = subject.backbone.first_word_token + sum(n for _, n in pieces)
        count = int(subject.backbone.count_tokens([text])[0])
        require(found <= count, f"{text!r}: expected {count} tokens at most, found {found} up to its last word's end")
    return None


def features_have_the_shapes_that_were_promised(subject: Subject) -> None:
    """[T, D] pooled, [T, L, D] tokens if provided, [V, F, D] frames, [V, D] a clip; floating-point and finite."""
    about, backbone = subject.about, subject.backbone
    require(
        (backbone.dim, backbone.image_size, backbone.provides) == (about.dim, about.image_size, about.provides),
        f"expected the loaded backbone as it was described, found dim {backbone.dim}, image_size "
        f"{backbone.image_size}, provides {', '.join(sorted(backbone.provides))}",
    )
    pooled, tokens = _text(subject)
    video, slots = _video(subject), subject.frames
    _shape("pooled of 3 captions", pooled, (3, about.dim))
    yielded = {"tokens": tokens, "frames": video.frames, "video.pooled": video.pooled}
    for name, x in yielded.items():
        promised = name in about.provides
        require((x is not None) == promised, f"{name} is {'' if promised else 'not '}in provides, but not so yielded")
    if tokens is not None:
        _shape("tokens of 3 captions", tokens, (3, subject.length, about.dim))
    if video.frames is not None:
        _shape(f"frames of 2 clips of {slots}", video.frames, (2, slots, about.dim))
    if video.pooled is not None:
        _shape("video.pooled of 2 clips", video.pooled, (2, about.dim))
    for what, x in (("pooled", pooled), *yielded.items()):
        if x is not None:
            require(x.is_floating_point() and bool(x.isfinite().all()), f"expected finite numbers in {what}")
            require(bool((x.norm(dim=-1) > 0).all()), f"expected no vector of zeros in {what}: cosines divide by them")


def features_are_not_normalised(subject: Subject) -> str | None:
    """Their length is information, and some heads' temperatures are made for it. A model that is so by itself may."""
    pooled, _ = _text(subject)
    for what, x in {"pooled text": pooled, **_seen(subject)}.items():
        length = x.norm(dim=-1)
        if bool(((length - 1).abs() < 1e-3).all()):
            return f"its {what} has length 1: right if its model's own code makes it so, else leave the division out"
    return None


def the_same_input_gives_the_same_features(subject: Subject) -> None:
    """No dropout, no random numbers."""
    for what, one, two in zip(("pooled", "tokens"), _text(subject), _text(subject), strict=True):
        same = one is two is None or (one is not None and two is not None and torch.equal(one, two))
        require(same, f"expected the same {what} a second time, found others")
    for (what, x), y in zip(_seen(subject).items(), _seen(subject).values(), strict=True):
        require(torch.equal(x, y), f"expected the same {what} a second time, found others")


def an_items_features_do_not_depend_on_its_batch(subject: Subject) -> None:
    """What is computed alone and in company goes into one store."""
    pixels, real = _pixels(subject)
    together, alone = _seen(subject), _seen(subject, slice(1, 2))
    for what, x in together.items():
        _close(f"the second clip's {what} alone differ from those beside the first", alone[what], x[1:])
    if not subject.mixes_frames:
        with torch.no_grad():
            one = subject.backbone.encode_frames(pixels[:1, 1:2], real[:1, 1:2])
        _close("a frame alone differs from the frame among its clip's", one, together["frames"][:1, 1:2])
    pooled, tokens = _text(subject)
    ids, _ = subject.backbone.tokenize(CAPTIONS[1:2], subject.length)
    with torch.no_grad():
        own, own_tokens = subject.backbone.encode_text(ids)
    _close("the second caption's pooled text alone differs from that in a batch", own, pooled[1:2])
    if tokens is not None and own_tokens is not None:
        _close("the second caption's tokens alone differ from those in a batch", own_tokens, tokens[1:2])


def pads_do_not_change_pooled_text(subject: Subject) -> None:
    """A query is encoded at its own length, a store at its plan's."""
    backbone = subject.backbone
    longest = min(int(backbone.count_tokens(CAPTIONS).max()), subject.about.context_length)
    with torch.no_grad():
        tight, _ = backbone.encode_text(backbone.tokenize(CAPTIONS, longest)[0])
        loose, _ = backbone.encode_text(backbone.tokenize(CAPTIONS, subject.about.context_length)[0])
    _close("pooled text differs with the number of pads", tight, loose)


def missing_frames_hold_nothing(subject: Subject) -> str | None:
    """Whatever their pixels are, they are one and the same image: the zero of the normalised ones."""
    if subject.mixes_frames:
        return "it encodes whole clips, and is given no missing frames: a short clip is repeated in time"
    pixels, _ = _pixels(subject)
    real = torch.tensor([[True, True, False], [True, False, False]])
    with torch.no_grad():
        one = subject.backbone.encode_frames(pixels, real)
        two = subject.backbone.encode_frames(pixels.masked_fill(~real[:, :, None, None, None], 7), real)
    _close("what a missing frame's slot holds changes features", one, two)
    require(bool(one.isfinite().all()), "expected finite features of missing frames")
    _close("missing frames differ from each other", one[0, 2:], one[1, 1:2])
    return None


def frames_of_another_size_or_type_are_refused(subject: Subject) -> None:
    """ValueError, because the engine resizes to what `image_size` says: anything else is a mistake."""
    size, slots = subject.about.image_size, subject.about.frames or 1
    wrong = {
        f"frames of {size + 1} pixels": torch.zeros(1, slots, 3, size + 1, size + 1, dtype=torch.uint8),
        "floating-point frames": torch.zeros(1, slots, 3, size, size),
        "frames with the channels last": torch.zeros(1, slots, size, size, 3, dtype=torch.uint8),
    }
    if subject.about.frames is not None:
        wrong[f"{slots + 1} frames a clip"] = torch.zeros(1, slots + 1, 3, size, size, dtype=torch.uint8)
    for what, pixels in wrong.items():
        try:
            _clips(subject, pixels, torch.ones(1, pixels.shape[1], dtype=torch.bool))
        except ValueError:
            continue
        except Exception as e:
            raise BrokenContract(f"expected a ValueError for {what}, found {type(e).__name__}: {e}") from e
        raise BrokenContract(f"expected a ValueError for {what}, and they were encoded (see `check_frames`)")


# ------------------------------------------------------------------------------------------------------------- tuning


def gradients_reach_both_sides(subject: Subject) -> str | None:
    """`--tune full` trains what has parameters."""
    backbone = subject.backbone
    if not any(True for _ in backbone.parameters()):
        return "it has no parameters: there is nothing to tune"
    if reason := subject.about.kind.cannot_save(subject.about):
        return f"it is not tuned: {reason}"
    ids, _ = backbone.tokenize(CAPTIONS, subject.length)
    video = _clips(subject, *_pixels(subject))
    sides = {"text": backbone.encode_text(ids)[0], "frames": video.frames, "clips": video.pooled}
    for what, out in sides.items():
        if out is None:
            continue
        backbone.zero_grad(set_to_none=True)
        require(out.requires_grad, f"expected that gradients flow through the {what}, found none")
        out.square().sum().backward(retain_graph=True)
        reached = any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in backbone.parameters())
        require(reached, f"expected a gradient of some parameter from the {what}, found none")
    backbone.zero_grad(set_to_none=True)
    return None


def a_saved_backbone_loads_to_the_same_features(subject: Subject) -> str | None:
    """A tuned backbone lives on as a folder; what cannot be saved says so before hours of training."""
    if reason := subject.about.kind.cannot_save(subject.about):
        return f"it cannot be tuned (--tune full): {reason}"
    with tempfile.TemporaryDirectory() as folder:
        name = registry.save(subject.backbone, Path(folder) / "saved")
        about, again = registry.resolve(name), registry.load(name, offline=True)
        kind = type(subject.backbone)
        require(type(again) is kind, f"expected that {name} loads a {kind.__name__}, found a {type(again).__name__}")
        other = Subject(name, about, again)
        require(again.provides == subject.backbone.provides, "expected that a saved backbone provides what it did")
        for what, one, two in zip(("pooled", "tokens"), _text(subject), _text(other), strict=True):
            if one is not None and two is not None:
                _close(f"a saved backbone's {what} differs", two, one)
        for (what, one), two in zip(_seen(subject).items(), _seen(other).values(), strict=True):
            _close(f"a saved backbone's {what} differ", two, one)
        try:
            an_identity_is_json_and_stable(other)
        except BrokenContract as e:
            raise BrokenContract(f"of the saved one: {e}") from e
    return None


def temporal_shift_is_there_or_refused(subject: Subject) -> str | None:
    """Before weights are loaded, by the skeleton."""
    skeleton = registry.skeleton(subject.about)
    offered = "temporal_shift" in subject.about.provides
    try:
        skeleton.shift_patches()
    except ConfigError as e:
        require(not offered, f"temporal_shift is in provides, but shift_patches() refuses: {e}")
        return "it cannot shift patches (--temporal-shift)"
    require(offered, "shift_patches() works, but temporal_shift is not in provides")
    require(skeleton.shifts_patches, "expected that shift_patches() sets shifts_patches")
    return None


CLAUSES = (
    a_name_is_described_without_network,
    provides_names_what_there_is,
    an_identity_is_json_and_stable,
    a_skeleton_has_the_parameters_of_the_loaded_one,
    a_skeleton_knows_what_encoding_costs,
    versions_are_text,
    captions_become_padded_ids,
    words_and_their_pieces_add_up,
    features_have_the_shapes_that_were_promised,
    features_are_not_normalised,
    the_same_input_gives_the_same_features,
    an_items_features_do_not_depend_on_its_batch,
    pads_do_not_change_pooled_text,
    missing_frames_hold_nothing,
    frames_of_another_size_or_type_are_refused,
    gradients_reach_both_sides,
    a_saved_backbone_loads_to_the_same_features,
    temporal_shift_is_there_or_refused,
)


# ------------------------------------------------------------------------------------------------------- what is used


def _pixels(subject: Subject) -> tuple[Tensor, Tensor]:
    size, generator = subject.about.image_size, torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, subject.frames, 3, size, size), generator=generator, dtype=torch.uint8)
    return pixels, torch.ones(2, subject.frames, dtype=torch.bool)


@torch.no_grad()
def _video(subject: Subject, clips: slice = slice(None)) -> VideoOut:
    pixels, real = _pixels(subject)
    return _clips(subject, pixels[clips], real[clips])


def _clips(subject: Subject, pixels: Tensor, real: Tensor) -> VideoOut:
    """Encode clips, with times where it has to know them: a frame every half second."""
    if not subject.about.timed:
        return subject.backbone.encode_video(pixels, real)
    return subject.backbone.encode_video(pixels, real, 0.5 * torch.arange(real.shape[1]).expand(real.shape))


def _seen(subject: Subject, clips: slice = slice(None)) -> dict[str, Tensor]:
    """Return what it makes of clips, by the name of the feature."""
    out = _video(subject, clips)
    named = {"frames": out.frames, "video.pooled": out.pooled}
    return {name: x for name, x in named.items() if x is not None}


@torch.no_grad()
def _text(subject: Subject) -> tuple[Tensor, Tensor | None]:
    return subject.backbone.encode_text(subject.backbone.tokenize(CAPTIONS, subject.length)[0])


def _shape(what: str, found: Tensor, expected: tuple[int, ...]) -> None:
    require(tuple(found.shape) == expected, f"{what}: expected the shape {list(expected)}, found {list(found.shape)}")


def _close(problem: str, got: Tensor, expected: Tensor) -> None:
    """Require that no entry is off by more than rounding, measured against the largest."""
    require(got.shape == expected.shape, f"{problem}: shapes {list(got.shape)} and {list(expected.shape)}")
    error, largest = float((got - expected).abs().max()), float(expected.abs().max())
    allowed = _ROUNDING * max(largest, 1e-12)
    require(error <= allowed, f"{problem}: off by up to {error:.3g}, {allowed:.2g} is allowed")
