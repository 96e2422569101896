"""Cards: one format for a measurement and a verification, written, read and done again."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tvr_cli.cli import app
from tvr_cli.engine.evaluation import judge as referee
from tvr_cli.engine.evaluation.card import card_of
from tvr_cli.errors import DataError
from tvr_cli.results.card import Card, Value
from tvr_cli.verify import offline, rerun
from tvr_cli.verify.outcome import Outcome, VerifyReport, report


def verified(found: float = 1.0, sha256: str = "aa", **changed: Any) -> VerifyReport:
    """A verification of one value, of one file."""
    value = Value(name="R@1", found=found, expected=1.0, allowed=0.1)
    status = "PASS" if abs(found - 1.0) <= 0.1 else "FAIL"
    outcome = replace(Outcome(name="R@1", status=status, detail="", values=(value,)), **changed)
    return report(
        [], [outcome], protocol={"what": "a test"}, hashes={"weights": sha256}, device=torch.device("cpu"), who="me"
    )


def test_a_card_survives_its_file(tmp_path: Path) -> None:
    card = verified().card
    (tmp_path / "card.json").write_text(json.dumps(card.to_json()))
    assert Card.from_file(tmp_path / "card.json") == card
    assert card.code.tvr and card.versions["torch"] and card.device == "cpu" and card.who == "me"


def test_a_card_is_confirmed_within_what_a_value_is_allowed_to_be_off() -> None:
    assert rerun.again(verified().card, lambda of: verified(found=1.05)).changes == ()


@pytest.mark.parametrize(
    ("here", "words"),
    [
        ({"found": 3.0}, "status: PASS on the card, FAIL here"),
        ({"found": 3.0}, "R@1: 1 on the card, 3 here"),
        ({"found": float("nan")}, "R@1: 1 on the card, nan here"),
        ({"sha256": "bb"}, "weights: another file"),
        ({"values": ()}, "R@1: on the card, not checked here"),
    ],
)
def test_what_is_not_as_a_card_says_is_told(here: dict[str, Any], words: str) -> None:
    assert words in "; ".join(rerun.again(verified().card, lambda of: verified(**here)).changes)


def test_a_card_says_which_revision_was_read() -> None:
    card = verified().card
    for said, expected in (("abc", "abc"), ("not pinned", None)):
        assert rerun.revision_of(replace(card, protocol={**card.protocol, "revision": said})) == expected
    assert rerun.revision_of(card) is None
    found = CliRunner().invoke(app, ["verify", "--revision", "abc"])
    assert found.exit_code == 2 and "--revision is that of somebody's features" in found.stderr


def test_the_card_of_a_measurement_is_one_too_and_cannot_be_verified(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", scores=np.eye(30) + 0.1, video_of_caption=np.arange(30))
    result, _ = referee.judge_file(tmp_path / "a.npz", referee.JudgeOptions())
    card = card_of(result)
    assert {value.name for value in card.values} >= {"t2v R@1", "v2t MdR"} and card.hashes["scores"]
    (tmp_path / "card.json").write_text(json.dumps(card.to_json()))
    with pytest.raises(DataError, match="only a verification and a row of a table can be done"):
        rerun.read(tmp_path / "card.json")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "a.json",
            '{"schema": "tvr/audit@1"}',
            "expected a result of the schema tvr/card@1, found the schema tvr/audit@1",
        ),
        (
            "b.json",
            '{"schema": "tvr/card@9"}',
            "found the schema tvr/card@9; give the JSON that `tvr verify --save-card`",
        ),
        ("c.txt", "t2v R@1 59.38", "is not readable as JSON: "),
        ("folder", None, "expected a file at '.*folder', found a folder; give the JSON"),
        ("none.json", "", "expected a file at '.*none.json', found none; give the JSON"),
    ],
)
def test_a_file_that_is_no_card_is_a_sentence(tmp_path: Path, name: str, text: str | None, told: str) -> None:
    if text is None:
        (tmp_path / name).mkdir()
    elif text:
        (tmp_path / name).write_text(text)
    found = CliRunner().invoke(app, ["verify", "--card", str(tmp_path / name)])
    assert found.exit_code == 3 and re.search(told, found.stderr), found.stderr


def test_the_command_writes_a_card_and_does_it_again(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(offline, "verify", lambda device, who: verified())
    path = tmp_path / "mine.json"
    assert CliRunner().invoke(app, ["verify", "--save-card", str(path), "--who", "me"]).exit_code == 0
    assert CliRunner().invoke(app, ["verify", "--card", str(path)]).exit_code == 0
    monkeypatch.setattr(offline, "verify", lambda device, who: verified(sha256="bb"))
    other = CliRunner().invoke(app, ["verify", "--card", str(path)])
    assert other.exit_code == 5 and "not as the card says: weights: another file" in other.stdout
    assert "the card is not confirmed" in other.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["backbon"], "did you mean backbone?"),
        (["backbone"], "name the backbone: tvr verify backbone clip-vit-b32"),
        (["--asset", "a.png"], "name the backbone"),
        (["backbone", "x", "--card", "a.json"], "leave out the other words"),
    ],
)
def test_a_wrong_word_is_a_sentence(words: list[str], told: str) -> None:
    found = CliRunner().invoke(app, ["verify", *words])
    assert found.exit_code == 2 and told in found.stderr
