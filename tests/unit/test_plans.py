"""Plans: read from presets and identities, compared field by field."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tvr_cli import plans
from tvr_cli.config import BackboneConfig, Experiment, FramesConfig, WordsConfig
from tvr_cli.errors import ConfigError
from tvr_cli.plans import Difference, FeaturePlan, FramePlan, PrecomputeOptions, Wish, WordPlan
from tvr_cli.types import View

FRAMES = FramePlan("fps", fps=1.0, max_frames=12, size=64)
ASKED = PrecomputeOptions(shape="fixed", words="ragged", max_words=24, word_importance="stopwords")


def identity(options: PrecomputeOptions = ASKED, frames: FramePlan = FRAMES) -> dict[str, Any]:
    plan = FeaturePlan.make(options, frames, backbone="tiny", context=32)
    return plan.identity({"name": "tiny", "temporal_shift": options.temporal_shift}, frames.identity())


def test_a_frame_plan_says_what_0_1_0_did_not_know_only_where_it_differs() -> None:
    """Fingerprints of 0.1.0 are hashes of these identities."""
    old = {"kind": "fps", "fps": 1.0, "max_frames": 12, "size": 64, "quality": 90}
    sentence = "pillow-bicubic short side, centre crop, rgb, jpeg 4:2:0"
    assert FRAMES.identity() == {**old, "filter": sentence}
    squashed = FramePlan(fit="squash", filter="bilinear")
    assert squashed.identity()["filter"] == "pillow-bilinear both sides, rgb, jpeg 4:2:0"
    whole = FramePlan(fit="whole", size=64, short_side=64)
    said = whole.identity()
    assert (said["fit"], said["short_side"], said["filter"]) == (
        "whole", 64, "pillow-bicubic short side, never enlarged, rgb, jpeg 4:2:0"
    )  # fmt: skip
    assert whole.pictures == "whole, short side 64 px, bicubic, JPEG 90"
    assert squashed.pictures == "squash, 224 x 224 px, bilinear, JPEG 90"
    for plan in (FRAMES, squashed, whole):
        plan.check()
        assert FramePlan.from_identity(plan.identity()) == plan


def test_a_difference_names_the_field_and_both_values() -> None:
    found = {"backbone": {"name": "a", "sha256": "1"}, "shape": "fixed"}
    wanted = {"shape": "ragged", "backbone": {"name": "a", "sha256": "2"}, "words": {"length": 5}}
    assert plans.differences(found, wanted) == [
        Difference("shape", "fixed", "ragged"),
        Difference("backbone.sha256", "1", "2"),
        Difference("words.length", None, 5),
    ]


def test_a_field_that_only_the_found_identity_has_differs_too() -> None:
    assert plans.differences({"fps": 1.0}, {"kind": "uniform"}) == [
        Difference("kind", None, "uniform"),
        Difference("fps", 1.0, None),
    ]
    assert plans.differences({"fps": None}, {}) == []


def test_an_identity_and_its_plan_are_the_same_thing() -> None:
    assert FramePlan.from_identity(identity()["frames"]) == FRAMES
    assert identity(PrecomputeOptions().as_made(identity(), {})) == identity()


def test_options_as_a_store_was_made_keep_what_the_store_does_not_say() -> None:
    own = PrecomputeOptions(dtype="bf16", precision="bf16", batch=3, device="cpu", offline=True)
    made = own.as_made(identity(), {"dtype": "fp32"})
    assert (made.words, made.max_words, made.word_importance) == ("ragged", 24, "stopwords")
    assert (made.dtype, made.precision, made.batch, made.device, made.offline) == ("fp32", "bf16", 3, "cpu", True)


def test_a_data_sets_preset_gives_its_frame_plan() -> None:
    frames, words = plans.of_dataset("demo")
    assert FramePlan.from_config(frames) == FramePlan("uniform", num_frames=12, size=64)
    assert words.length == 24
    assert plans.of_dataset("no-preset") == (FramesConfig(), WordsConfig())


def test_a_wish_takes_what_it_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TVR_BACKBONE", raising=False)
    wish = Wish.from_experiment(Experiment(method="mean", options={}), needs={"frames"})
    assert wish.differences(identity(), "tiny") == []
    assert wish.options() == PrecomputeOptions()


def test_a_wish_says_every_field_that_does_not_fit() -> None:
    experiment = Experiment(
        method="dmae",
        options={},
        backbone=BackboneConfig(name="other", temporal_shift=True),
        shape="ragged",
        frames=FramesConfig(kind="uniform", size=64),
        words=WordsConfig(length=32, importance="spacy"),
    )
    wish = Wish.from_experiment(experiment, needs={"importance"})
    assert wish.differences(identity(), "local:tiny") == [
        "its backbone is local:tiny, other is wanted",
        "shape is 'fixed', 'ragged' is wanted",
        "words.importance is 'stopwords', 'spacy' is wanted",
        "backbone.temporal_shift is False, True is wanted",
        "frames.kind is 'fps', 'uniform' is wanted",
        "words.length is 24, 32 is wanted",
    ]


def test_a_wish_for_a_method_that_reads_importance_computes_it() -> None:
    wish = Wish.from_experiment(Experiment(method="dmae", options={}), needs={"importance"})
    assert wish.options().word_importance == "stopwords"
    assert wish.differences(identity(), "tiny") == []


@pytest.mark.parametrize(
    ("options", "frames", "message"),
    [
        (PrecomputeOptions(), FramePlan("fps", fps=1.0), "--shape fixed needs a largest number of frames"),
        (PrecomputeOptions(shape="ragged", temporal_shift=True), FRAMES, "--temporal-shift .* needs --shape fixed"),
        (PrecomputeOptions(max_words=33), FRAMES, "--max-words: expected 3 to 32, the context of tiny, found 33"),
    ],
)
def test_a_plan_that_contradicts_itself_is_a_sentence(
    options: PrecomputeOptions, frames: FramePlan, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        identity(options, frames)


def test_a_plan_without_words_takes_the_default_or_the_context_if_shorter() -> None:
    for context, length in ((77, 32), (16, 16)):
        made = FeaturePlan.make(PrecomputeOptions(shape="ragged"), FRAMES, backbone="tiny", context=context)
        assert (made.words, made.slots) == (WordPlan("ragged", length), None)


def test_plans_need_no_torch() -> None:
    code = "import sys, tvr_cli.plans as p; p.of_dataset('msrvtt'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("flags", [{"fit": "crop"}, {"size": 64}, {"fit": "squash", "size": 100}])
def test_pictures_that_the_named_backbone_cannot_use_are_refused_before_any_are_made(flags: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"--for names a backbone that takes 240 px \(squash\)"):
        plans.AskedFrames(view=View(240, "squash"), **flags).plan()
    for fine in ({}, {"fit": "squash"}, {"fit": "whole", "size": 300}):
        assert plans.AskedFrames(view=View(240, "squash"), **fine).plan().serves(View(240, "squash"))
