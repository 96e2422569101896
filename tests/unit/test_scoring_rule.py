"""T-MASS by its authors' released test: only where it makes sense, under its name, and never beside another number."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from synthetic import SyntheticStore

from tvr_cli.cli.evaluate import show
from tvr_cli.engine import scorers
from tvr_cli.engine.evaluation import compare, evaluate
from tvr_cli.engine.evaluation.evaluate import EvaluateOptions
from tvr_cli.engine.evaluation.judge import JudgeOptions
from tvr_cli.engine.scorers import Scorer
from tvr_cli.errors import ConfigError
from tvr_cli.workspace import Workspace

RULE = EvaluateOptions(rule="authors")


def scorer_of(name, store):
    torch.manual_seed(0)
    resolved = scorers.resolve_method(name, ["method.tmass.trials=3"] if name == "tmass" else [])
    return Scorer(scorers.build(resolved.experiment, store).eval(), name, resolved.experiment, None, None)


@pytest.fixture
def made(tmp_path):
    store = SyntheticStore(8, 1, splits=("test",)).write(tmp_path)
    return Workspace(tmp_path), store, scorer_of("tmass", store)


def test_the_rule_is_named_wherever_the_number_is_and_has_a_file_of_its_own(made, capsys):
    workspace, store, scorer = made
    own = evaluate.evaluate(scorer, store, workspace, EvaluateOptions())
    result = evaluate.evaluate(scorer, store, workspace, RULE)
    assert result.subject.rule == "authors" and own.subject.rule is None
    show(result)
    assert "rule: authors, that of the authors' released test; not comparable with any other" in capsys.readouterr().out
    results = workspace.run("tmass").results
    assert json.loads((results / "test.rule-authors.json").read_text())["rule"] == "authors"
    assert "rule" not in json.loads((results / "test.json").read_text())


def test_it_stands_in_no_table(made):
    workspace, store, scorer = made
    for options in (EvaluateOptions(), RULE):
        evaluate.evaluate(scorer, store, workspace, options)
    by_rule = compare.read_entry(workspace.run("tmass").results / "test.rule-authors.json", "test", workspace)
    own = compare.read_entry(workspace.run("tmass").path, "test", workspace)
    assert own.result.rule is None
    with pytest.raises(ConfigError, match="scored by the rule 'authors' of its authors' released test"):
        compare.compare([own, by_rule])


def test_on_the_diagonal_both_rules_agree_and_beside_it_they_do_not(made):
    _, store, scorer = made
    method = scorer.method
    text, video = method.encode_text(store.text()), method.encode_video(store.video())
    with torch.no_grad():
        own, by_rule = method.score(text, video), method.score_by_rule("authors", text, video, text)
    torch.testing.assert_close(own.diagonal(), by_rule.diagonal(), rtol=0, atol=1e-6)
    assert (own - by_rule).abs().max() > 1e-3


def test_a_trial_is_the_same_in_every_company(made):
    """Draws come from caption, clip and trial; another repetition draws others."""
    _, store, scorer = made
    method = scorer.method
    text, video = method.encode_text(store.text()), method.encode_video(store.video())
    with torch.no_grad():
        whole = method.score(text, video)
        alone = method.score(text.rows(torch.tensor([3])), video.rows(torch.tensor([5])))
        method.noise_draw = 1
        other = method.score(text, video)
    torch.testing.assert_close(alone[0, 0], whole[3, 5], rtol=0, atol=1e-6)
    assert (other - whole).abs().min() > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "paper"}, "tmass has no rule 'paper'; its rules are authors"),
        ({"judge": JudgeOptions(post=("dsl",))}, "reproduces a published number and nothing else"),
    ],
)
def test_what_the_rule_does_not_go_with_is_a_sentence(made, options, words):
    workspace, store, scorer = made
    with pytest.raises(ConfigError, match=words):
        evaluate.evaluate(scorer, store, workspace, dataclasses.replace(RULE, **options))


def test_it_needs_one_caption_a_video_and_a_method_that_has_it(tmp_path):
    store = SyntheticStore(4, 2, splits=("test",)).write(tmp_path)
    with pytest.raises(ConfigError, match="needs one caption and one clip a video; found 8 captions, 4 clips of 4"):
        evaluate.dry_run(scorer_of("tmass", store), store, Workspace(tmp_path), RULE)
    with pytest.raises(ConfigError, match="mean has no rule 'authors'; it has none but its own"):
        evaluate.dry_run(scorer_of("mean", store), store, Workspace(tmp_path), RULE)
