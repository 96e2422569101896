"""Numbers that the authors of encoders, or of their libraries, publish on one picture or clip.

Each was read where it says. A row without a source, the line there and a tolerance fails a test. `line` is the line as
it stands, since numbers of lines move; tests of transformers were read at the commit that is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# What is compared. logits: the scaled cosines of the picture with each sentence, with the tower's bias. probabilities:
# their softmax. features: the first entries of the vector of the clip, then those of each sentence.
Quantity = Literal["logits", "probabilities", "prompted logits", "features"]
# picture: a file that Pillow reads. frames: an npy [F, H, W, 3] uint8. pixels: an npy [F, S, S, 3] in 0…1, as it is.
Shows = Literal["picture", "frames", "pixels"]


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A picture or clip that is not shipped. address: where it is, for people and for fetching. sha256: where known.

    dataset: of the Hugging Face hub, where it is in one; address is then the file's name there.
    """

    address: str
    shows: Shows
    dataset: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class BackboneRow:
    """Expected values of an encoder. backbone: what `--backbone` takes, pinned. known_as: other names of the same row.

    allowed difference: atol + rtol |expected|. tolerance_by: whose tolerance that is. first: how many entries of each
    vector are compared (`features`).
    """

    backbone: str
    known_as: tuple[str, ...] = ()
    asset: Asset
    sentences: tuple[str, ...]
    quantity: Quantity
    expected: tuple[float, ...]
    first: tuple[int, int] = (0, 0)  # of the clip's vector, of each sentence's
    atol: float
    rtol: float
    tolerance_by: str
    source: str
    line: str


_TESTS = "https://github.com/huggingface/transformers/blob/{}/tests/models/{}, test_inference of the integration test"
_READ_AT = "01080c629600d4ff3121446bb4f4a2e240c2cf41"
_CATS = Asset(address="http://images.cocodataset.org/val2017/000000039769.jpg", shows="picture")
_A_CAT_AND_A_DOG = ("a photo of a cat", "a photo of a dog")

BACKBONES: tuple[BackboneRow, ...] = (
    BackboneRow(
        backbone="clip-vit-b32",
        known_as=("ViT-B-32-quickgelu/openai",),
        asset=Asset(
            address="https://raw.githubusercontent.com/openai/CLIP/d05afc436d78f1c48dc0dbf8e5980a9d471f35f6/CLIP.png",
            shows="picture",
            sha256="308a3ca4503f1c7a07803916c369d78c4ef501e5ab7fc727da9b5e1d2f9ec85b",
        ),
        sentences=("a diagram", "a dog", "a cat"),
        quantity="probabilities",
        expected=(0.9927937, 0.00421068, 0.00299572),
        atol=1e-4,
        rtol=0.0,
        tolerance_by="ours: the README names none and was computed in an unknown precision",
        source="https://github.com/openai/CLIP/blob/d05afc436d78f1c48dc0dbf8e5980a9d471f35f6/README.md#L45",
        line='print("Label probs:", probs)  # prints: [[0.9927937  0.00421068 0.00299572]]',
    ),
    BackboneRow(
        backbone="clip-vit-b32",
        known_as=("ViT-B-32-quickgelu/openai",),
        asset=_CATS,
        sentences=_A_CAT_AND_A_DOG,
        quantity="logits",
        expected=(24.5701, 19.3049),
        atol=1e-3,
        rtol=1e-3,
        tolerance_by="theirs",
        source=_TESTS.format(_READ_AT, "clip/test_modeling_clip.py") + "; the same weights in another file",
        line="expected_logits = torch.tensor([[24.5701, 19.3049]], device=torch_device)",
    ),
    BackboneRow(
        backbone="hf:openai/clip-vit-base-patch32@3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        known_as=("hf:openai/clip-vit-base-patch32",),
        asset=_CATS,
        sentences=_A_CAT_AND_A_DOG,
        quantity="logits",
        expected=(24.5701, 19.3049),
        atol=1e-3,
        rtol=1e-3,
        tolerance_by="theirs",
        source=_TESTS.format(_READ_AT, "clip/test_modeling_clip.py"),
        line="expected_logits = torch.tensor([[24.5701, 19.3049]], device=torch_device)",
    ),
    BackboneRow(
        backbone="hf:google/siglip-base-patch16-224@7fd15f0689c79d79e38b1c2e2e2370a7bf2761ed",
        known_as=("hf:google/siglip-base-patch16-224",),
        asset=_CATS,
        sentences=("a photo of 2 cats", "a photo of 2 dogs"),
        quantity="logits",
        expected=(-0.7567, -10.3354),
        atol=1e-3,
        rtol=1e-3,
        tolerance_by="theirs",
        source=_TESTS.format(_READ_AT, "siglip/test_modeling_siglip.py"),
        line="expected_logits = torch.tensor([[-0.7567, -10.3354]], device=torch_device)",
    ),
    BackboneRow(
        # The commit that mteb takes (mteb/models/model_implementations/xclip_models.py at 176098a5 on GitHub).
        backbone="hf:microsoft/xclip-base-patch32@a2e27a78a2b5d802e894b8a1ef14f3a8ce490963",
        known_as=("hf:microsoft/xclip-base-patch32",),
        asset=Asset(
            dataset="hf-internal-testing/spaghetti-video", address="eating_spaghetti_8_frames.npy", shows="frames"
        ),
        sentences=("playing sports", "eating spaghetti", "go shopping"),
        quantity="prompted logits",
        expected=(14.0181, 20.2771, 14.4776),
        atol=1e-3,
        rtol=1e-3,
        tolerance_by="theirs",
        source=_TESTS.format(_READ_AT, "x_clip/test_modeling_x_clip.py"),
        line="expected_logits = torch.tensor([[14.0181, 20.2771, 14.4776]], device=torch_device)",
    ),
    BackboneRow(
        backbone="videoprism-lvt-b",
        known_as=("hf:google/videoprism-lvt-base-f16r288@fb6de9f0eb7bc285be86bdca1cf7daa3e3ef51ff",),
        asset=Asset(dataset="MHRDYN7/videoprism_assets", address="frames_16_288.npy", shows="pixels"),
        sentences=tuple(
            f"a video of {what}."
            for what in ("playing drums", "sitting", "playing flute", "playing at playground", "concert")
        ),
        quantity="features",
        expected=(
            *(-0.01940615, -0.04830061, 0.0069022, 0.02915299, -0.05897291, 0.02168823),
            *(-0.01471708, -0.00971614, -0.00220576),
            *(-0.00802545, 0.00931361, 0.01555958),
            *(0.02245245, 0.00010197, -0.01073526),
            *(-0.02258418, 0.00133927, -0.01555064),
            *(0.01056228, 0.01835608, -0.01539922),
            *(-0.00366718, 0.00370416, 0.00800336),
        ),
        first=(9, 3),
        atol=1e-5,
        rtol=1e-5,
        tolerance_by="theirs",
        source="https://github.com/huggingface/transformers, tests/models/videoprism/test_modeling_videoprism.py, "
        "test_videoprism_clip_model (read in a branch: the test moved between repositories of weights)",
        line="-0.01940615, (first of video_expectation); [-0.00802545, 0.00931361, 0.01555958], (of text_expectation)",
    ),
)


def names() -> list[str]:
    """Return the names of encoders of which numbers are known, each once."""
    return list(dict.fromkeys(row.backbone.partition("@")[0] for row in BACKBONES))


def of(name: str) -> tuple[BackboneRow, ...]:
    """Return the rows of an encoder, by any of its names; none where no number is known."""
    return tuple(row for row in BACKBONES if name in (row.backbone, row.backbone.partition("@")[0], *row.known_as))
