"""Every shipped method holds the shipped contract (`tvr_cli.testing.method`), and the contract catches who does not.

A new method needs no edit here.
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tvr_cli import config
from tvr_cli.cli import app
from tvr_cli.errors import ConfigError
from tvr_cli.methods import base
from tvr_cli.testing import method as contract
from tvr_cli.testing.report import run


@pytest.mark.parametrize("name", base.shipped())
@pytest.mark.parametrize(
    "clause",
    [c for c in contract.CLAUSES if c is not contract.scores_on_cpu_and_gpu_agree],
    ids=lambda clause: clause.__name__,
)
def test_a_shipped_method_holds(clause, name):
    if note := clause(name):
        pytest.skip(f"{name}: {note}")


@pytest.mark.gpu
@pytest.mark.parametrize("name", base.shipped())
def test_a_shipped_method_scores_alike_on_a_gpu(name):
    assert contract.scores_on_cpu_and_gpu_agree(name) is None


@pytest.mark.parametrize("name", base.shipped())
def test_the_preset_builds_the_method_and_a_paper_is_named(name):
    cls = base.load_class(name)
    resolved = config.resolve(config.preset_layers("methods", name), lambda _: cls.Config)
    assert resolved.experiment.method == name and cls.paper
    assert base.build(name, contract.SIZES, resolved.experiment.options).config == cls.Config()


# ------------------------------------------------------------------------------------------------ the contract catches

BROKEN = [
    ("Turned", contract.scores_have_a_row_a_caption_and_a_column_a_clip, "expected the shape [7, 4], found [4, 7]"),
    ("Uneven", contract.scores_have_a_row_a_caption_and_a_column_a_clip, "do not sum to one: off by up to 1"),
    ("Blind", contract.scores_have_a_row_a_caption_and_a_column_a_clip, "no weight on missing frames"),
    ("Halved", contract.scores_have_a_row_a_caption_and_a_column_a_clip, "expected scores in torch.float32"),
    ("KeepsHalf", contract.half_precision_features_are_scored_in_fp32, "found torch.float16"),
    ("LooksAtNeighbours", contract.a_score_depends_on_its_caption_and_clip_only, "may not look at its neighbours"),
    ("Noisy", contract.a_score_depends_on_its_caption_and_clip_only, "a global generator?"),
    ("PoolsWithOwnCaption", contract.a_pair_keeps_its_score_whatever_captions_are_asked, "(as many captions as clips)"),
    ("CountsRows", contract.permuted_items_have_permuted_scores, "scores change with the order"),
    ("ReadsMore", contract.a_rough_score_needs_what_it_says, "raised KeyError: 'mean'"),
    ("Misspelt", contract.a_rough_score_needs_what_it_says, "among the clip's tensors, found maen"),
    ("RoughLooksAtNeighbours", contract.a_rough_score_needs_what_it_says, "depends on what else is scored"),
    ("Forgetful", contract.saved_parameters_and_encodings_give_the_same_scores, "from a state_dict in a new object"),
    ("CountsPads", contract.with_mask_padding_what_is_missing_has_no_effect, "missing frames change scores"),
    ("Idle", contract.every_parameter_gets_a_gradient_or_is_declared_dead, "not in dead(): unused.bias, unused.weight"),
    ("NotDead", contract.every_parameter_gets_a_gradient_or_is_declared_dead, "but have a gradient: turn.weight"),
    (
        "DeadTypo",
        contract.every_parameter_gets_a_gradient_or_is_declared_dead,
        "no parameter: trun.weight",
    ),
    ("Infinite", contract.gradients_with_mask_padding_are_finite, "found others in turn.weight"),
    ("OwnDice", contract.a_loss_draws_from_draws_alone, "use `draws`, not torch.rand"),
    ("ManyNumbers", contract.a_loss_is_a_scalar_with_named_parts, "one number, found the shape [3]"),
    ("NoParts", contract.a_loss_is_a_scalar_with_named_parts, "expected named parts of the loss, found none"),
    ("Uphill", contract.eight_pairs_are_overfitted, "of 8 captions find their clip"),
    ("LosesOptions", contract.a_configuration_survives_being_written_and_read, "expected the same options"),
    ("Nameless", contract.a_method_says_what_it_is, "expected a `summary`"),
    ("Unsourced", contract.a_method_says_what_it_is, "where their default comes from (source=…): temperature"),
    ("WantsSound", contract.a_method_says_what_it_is, "found sound"),
    ("Priceless", contract.a_method_says_what_it_is, "expected `cost_per_pair()` in words"),
    ("Raises", contract.permuted_items_have_permuted_scores, "`score` raised RuntimeError: mat1 and mat2"),
]


def test_a_whole_method_holds_every_clause():
    assert [c for c in contract.check("broken_methods.Whole") if not c.passed] == []


@pytest.mark.parametrize(("name", "clause", "words"), BROKEN, ids=[b[0] for b in BROKEN])
def test_a_broken_method_fails_its_clause_with_a_sentence(name, clause, words):
    (found,) = run([clause], f"broken_methods.{name}")
    assert not found.passed and words in found.message, found
    assert found.name == clause.__name__.replace("_", " ")


def test_every_clause_has_a_method_that_breaks_it():
    tested = {clause for _, clause, _ in BROKEN}
    assert set(contract.CLAUSES) - tested == {contract.scores_on_cpu_and_gpu_agree}  # needs a GPU


def test_a_name_without_a_method_is_an_error_and_no_report():
    with pytest.raises(
        ConfigError, match=r"the module 'broken_methods' has no 'Hole'; did you mean broken_methods\.Whole"
    ):
        contract.check("broken_methods.Hole")


def test_check_prints_each_clause_and_leaves_with_5_where_one_is_broken():
    whole = CliRunner().invoke(app, ["methods", "check", "broken_methods.Whole"])
    assert whole.exit_code == 0 and "ok  eight pairs are overfitted" in whole.stdout
    broken = CliRunner().invoke(app, ["methods", "check", "broken_methods.CountsPads", "--json"])
    assert broken.exit_code == 5
    assert "does not hold 1 clause of 16: with mask padding what is missing has no effect" in broken.stderr
    payload = json.loads(broken.stdout)
    assert payload["schema"] == "tvr/check@1" and payload["name"] == "broken_methods.CountsPads"
    assert [c["name"].startswith("with mask padding") for c in payload["checks"] if not c["passed"]] == [True]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("chek", "mean"), "did you mean check?"),
        (("check",), "tvr methods check glccl"),
        (("check", "glcl"), "did you mean glccl?"),
        (("check", "no.such"), "there is no module 'no'"),
    ],
)
def test_what_cannot_be_checked_is_a_sentence(args, words):
    result = CliRunner().invoke(app, ["methods", *args])
    assert result.exit_code == 2 and words in result.stderr


def test_a_clause_that_cannot_go_on_names_the_member_that_raised():
    def no_clause(name):
        raise NotImplementedError

    (found,) = run([no_clause], "mean")
    assert (found.passed, found.message) == (False, "`no_clause` raised NotImplementedError")
