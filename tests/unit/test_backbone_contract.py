"""The shipped contract (`tvr_cli.testing.backbone`): who holds it, and that it catches who does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_backbone
import pytest
import tiny_clip
import torch
from torch import Tensor

from tvr_cli.backbones import base
from tvr_cli.errors import ConfigError
from tvr_cli.testing import backbone as contract
from tvr_cli.testing.backbone import Subject

TOWERS = {
    "ViT": tiny_clip.config(),
    "ViT that can shift": tiny_clip.config(layers=12),
    "ResNet": tiny_clip.resnet_config(),
    "SigLIP": tiny_clip.config(no_causal_mask=True, proj_bias=True, pool_type="last"),
    "CoCa's text tower": tiny_clip.config(embed_cls=True),
}
FOREIGN = [f"foreign_backbone:{name}" for name in ("Backbone", "Unsaved", "Clips", "ClipsAndFrames")]
NAMES = ["demo-tiny", *FOREIGN, *TOWERS]


@pytest.fixture(scope="module", params=NAMES)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    name = request.param
    if name in TOWERS:
        name = f"local:{tiny_clip.folder(tmp_path_factory.mktemp('tower') / 'tiny', TOWERS[name])}"
    return contract.load(name, offline=True)


@pytest.mark.parametrize("clause", contract.CLAUSES, ids=lambda clause: clause.__name__)
def test_a_backbone_holds(clause: Callable[[Subject], str | None], subject: Subject) -> None:
    clause(subject)


def test_what_is_left_out_is_said() -> None:
    said = {check.name: check.message for check in contract.check("foreign_backbone:Unsaved")}
    assert "has no `save`" in said["a saved backbone loads to the same features"]
    assert said["temporal shift is there or refused"].startswith("it cannot shift patches")
    assert said["the same input gives the same features"] == ""


# ------------------------------------------------------------------------------------------------ the contract catches


class Unknown(foreign_backbone.Backbone):
    """Promises what no store knows."""

    @classmethod
    def describe(cls, name: str) -> base.Description:
        about = super().describe(name)
        return base.Description(**{**vars(about), "provides": about.provides | {"smell"}})


class Talks(foreign_backbone.Backbone):
    """Asks the network what it is."""

    @classmethod
    def describe(cls, name: str) -> base.Description:
        import socket

        socket.socket().connect(("127.0.0.1", 9))
        return super().describe(name)


class Restless(foreign_backbone.Backbone):
    """Has another identity each time."""

    def identity(self) -> dict[str, Any]:
        self._times = getattr(self, "_times", 0) + 1
        return {**super().identity(), "times": self._times}


class Pathy(foreign_backbone.Backbone):
    """Has an identity that JSON cannot hold."""

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "weights": Path("here")}


class Boneless(foreign_backbone.Backbone):
    """Its skeleton has a layer of another size."""

    @classmethod
    def skeleton(cls, about: base.Description) -> base.Backbone:
        return cls(base.Description(**{**vars(about), "dim": about.dim + 1}))


class Free(foreign_backbone.Backbone):
    """Costs nothing."""

    def cost(self, words: int) -> tuple[int, int]:
        return 0, 0


class KeepsAll(foreign_backbone.Backbone):
    """Does not count what it cuts."""

    def count_tokens(self, texts: Any) -> Tensor:
        return super().count_tokens(texts) + 1


class Flat(foreign_backbone.Backbone):
    """Pools before the vector."""

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        pooled, tokens = super().encode_text(ids)
        return pooled.sum(-1), tokens


class Hides(foreign_backbone.Backbone):
    """Promises tokens and keeps them."""

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        return super().encode_text(ids)[0], None


class Noisy(foreign_backbone.Backbone):
    """Has dropout on."""

    def encode_frames(self, pixels: Tensor, real: Tensor) -> Tensor:
        out = super().encode_frames(pixels, real)
        return out * (torch.rand_like(out) > 0.1)


class Sociable(foreign_backbone.Backbone):
    """Centres features over the batch."""

    def encode_frames(self, pixels: Tensor, real: Tensor) -> Tensor:
        out = super().encode_frames(pixels, real)
        return out - 0.1 * out.mean((0, 1), keepdim=True)


class CountsPads(foreign_backbone.Backbone):
    """Divides by the slots, not by the words."""

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        pooled, tokens = super().encode_text(ids)
        return pooled / ids.shape[1], tokens


class SeesMissing(foreign_backbone.Backbone):
    """Encodes whatever lies in a missing slot."""

    def encode_frames(self, pixels: Tensor, real: Tensor) -> Tensor:
        return super().encode_frames(pixels, torch.ones_like(real))


class Swallows(foreign_backbone.Backbone):
    """Takes frames of any size."""

    def check_frames(self, pixels: Tensor, dtype: torch.dtype | None = torch.uint8) -> None:
        return None


class Detached(foreign_backbone.Backbone):
    """Lets no gradient through."""

    @torch.no_grad()
    def encode_frames(self, pixels: Tensor, real: Tensor) -> Tensor:
        return super().encode_frames(pixels, real)


class Forgets(foreign_backbone.Backbone):
    """Saves other weights than it has."""

    def save(self, folder: Path) -> None:
        with torch.no_grad():
            kept = self.see.weight.clone()
            self.see.weight.mul_(1.5)
            super().save(folder)
            self.see.weight.copy_(kept)


class Boasts(foreign_backbone.Backbone):
    """Promises a shift of patches that it does not have."""

    @classmethod
    def describe(cls, name: str) -> base.Description:
        about = super().describe(name)
        return base.Description(**{**vars(about), "provides": about.provides | {"temporal_shift"}})


class OfUnitLength(foreign_backbone.Backbone):
    """Normalises by habit."""

    def encode_frames(self, pixels: Tensor, real: Tensor) -> Tensor:
        return torch.nn.functional.normalize(super().encode_frames(pixels, real), dim=-1)


class Anyhow(foreign_backbone.Clips):
    """Takes any number of frames and promises four."""

    def check_frames(self, pixels: Tensor, dtype: torch.dtype | None = torch.uint8) -> None:
        super().check_frames(pixels[:, : self.FRAMES], dtype)


class KeepsTheVector(foreign_backbone.Clips):
    """Promises a vector a clip and yields none."""

    def encode_video(self, pixels: Tensor, real: Tensor, times: Tensor | None = None) -> base.VideoOut:
        return base.VideoOut(None, None)


class SociableClips(foreign_backbone.Clips):
    """Centres clips over the batch."""

    def encode_video(self, pixels: Tensor, real: Tensor, times: Tensor | None = None) -> base.VideoOut:
        pooled = super().encode_video(pixels, real).pooled
        assert pooled is not None
        return base.VideoOut(None, pooled - 0.1 * pooled.mean(0))


class Blind(foreign_backbone.Clips):
    """Sees nothing at all."""

    @classmethod
    def describe(cls, name: str) -> base.Description:
        return base.Description(**{**vars(super().describe(name)), "provides": frozenset({"pooled"})})


CAUGHT = [
    (Blind, contract.provides_names_what_there_is, "found neither"),
    (KeepsTheVector, contract.features_have_the_shapes_that_were_promised, "video.pooled is in provides, but not so"),
    (SociableClips, contract.an_items_features_do_not_depend_on_its_batch, "video.pooled alone differ"),
    (Anyhow, contract.frames_of_another_size_or_type_are_refused, "a ValueError for 5 frames a clip, and they were"),
    (Unknown, contract.provides_names_what_there_is, "found smell"),
    (Restless, contract.an_identity_is_json_and_stable, "the same identity when it is asked again"),
    (Pathy, contract.an_identity_is_json_and_stable, "an identity that JSON can hold"),
    (Boneless, contract.a_skeleton_has_the_parameters_of_the_loaded_one, "found 3 that differ"),
    (Free, contract.a_skeleton_knows_what_encoding_costs, "a number of operations of a frame, found 0"),
    (KeepsAll, contract.captions_become_padded_ids, "tokens of 16 slots"),
    (Flat, contract.features_have_the_shapes_that_were_promised, "pooled of 3 captions: expected the shape"),
    (Hides, contract.features_have_the_shapes_that_were_promised, "tokens is in provides, but not so yielded"),
    (Noisy, contract.the_same_input_gives_the_same_features, "the same frames a second time"),
    (Sociable, contract.an_items_features_do_not_depend_on_its_batch, "frames alone differ"),
    (CountsPads, contract.pads_do_not_change_pooled_text, "differs with the number of pads"),
    (SeesMissing, contract.missing_frames_hold_nothing, "what a missing frame's slot holds"),
    (Swallows, contract.frames_of_another_size_or_type_are_refused, "and they were encoded"),
    (Detached, contract.gradients_reach_both_sides, "gradients flow through the frames"),
    (Forgets, contract.a_saved_backbone_loads_to_the_same_features, "frames differ"),
    (Boasts, contract.temporal_shift_is_there_or_refused, "but shift_patches() refuses"),
]


@pytest.mark.parametrize(("kind", "clause", "said"), CAUGHT, ids=[c[0].__name__ for c in CAUGHT])
def test_a_broken_backbone_is_caught(kind: type[base.Backbone], clause: Any, said: str) -> None:
    with pytest.raises(AssertionError) as e:
        clause(contract.load(f"{__name__}:{kind.__name__}"))
    assert said in str(e.value)


def test_a_backbone_that_asks_the_network_is_caught() -> None:
    about = foreign_backbone.Backbone.describe(f"{__name__}:Talks")
    subject = Subject(f"{__name__}:Talks", about, Talks.load(about, offline=True))
    with pytest.raises(AssertionError, match="opens no connection, found one to"):
        contract.a_name_is_described_without_network(subject)


def test_vectors_of_length_one_are_noted() -> None:
    said = contract.features_are_not_normalised(contract.load(f"{__name__}:OfUnitLength"))
    assert said is not None and "its frames has length 1" in said


def test_an_unknown_backbone_has_no_contract() -> None:
    with pytest.raises(ConfigError, match="unknown backbone"):
        contract.check("clip-vit-b23")
