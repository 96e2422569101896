"""A seeded sample of what `index_faults.py` does without end."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.index_faults import Victim, damaged_bytes, damaged_heads


@pytest.fixture
def victim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Victim:
    return Victim(tmp_path / "index")


def test_a_fallen_bit_or_a_lost_end_never_shows_a_wrong_row_and_is_seen_by_the_doctor(victim: Victim) -> None:
    found = damaged_bytes(victim, 300, seed=1)
    assert {"refused at opening", "refused before it was shown", "the same answer"} <= set(found), found


def test_a_value_of_another_type_in_a_head_is_refused(victim: Victim) -> None:
    found = damaged_heads(victim, 60, seed=1)
    assert found["refused at opening"] > 60, found
