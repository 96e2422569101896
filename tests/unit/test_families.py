"""Parity of each family of encoders with open_clip's own calls, and the table of it in docs/backbones.md."""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from pathlib import Path

import families
import pytest
from families import FAMILIES, Family, Measured

from tvr_cli.backbones import registry

TOLERANCE = 1e-5
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
# Three in the default suite; all of them, a minute and a half of processor time, with the other long proofs.
QUICK = {"CLIP (OpenAI)", "SigLIP 2", "PE-Core B"}
EACH = [pytest.param(f, id=f.name, marks=() if f.name in QUICK else pytest.mark.slow) for f in FAMILIES]
# A group: each family is made once, whoever asks first.
pytestmark = pytest.mark.xdist_group("families")


@functools.cache
def measured(family: Family) -> Measured:
    if family.tokenizer is not None and not HAS_TRANSFORMERS:
        pytest.skip("its tokenizer needs the package transformers")
    with tempfile.TemporaryDirectory() as folder:
        return families.measure(family, Path(folder).resolve())


@pytest.mark.parametrize("family", EACH)
def test_vectors_are_open_clips(family: Family) -> None:
    found = measured(family)
    assert found.image <= TOLERANCE
    assert found.text <= TOLERANCE
    assert found.tokens is None or found.tokens <= TOLERANCE
    assert (found.tokens is None) == ("tokens" not in found.about.provides)
    assert found.ids_equal


@pytest.mark.parametrize("family", EACH)
def test_pictures_are_seen_as_the_weights_were_trained(family: Family) -> None:
    found = measured(family)
    assert found.direct >= 0.9999
    # With random weights CoCa's pooling magnifies what JPEG does, in open_clip's own hands as much.
    lowest = {shape: 0.999 if family.name != "CoCa" else by_them - 1e-4 for shape, by_them in found.by_them.items()}
    assert all(found.stored[shape] >= enough for shape, enough in lowest.items()), found


@pytest.mark.parametrize("family", [each for each in EACH if each.values[0].tag])
def test_published_weights_are_described_as_the_family_is(family: Family) -> None:
    about, small = registry.resolve(f"{family.arch}/{family.tag}"), measured(family).about
    assert (about.view, about.context_length, about.dim) == (small.view, small.context_length, small.dim)
    assert about.detail.pixels == small.detail.pixels
    assert about.provides - {"temporal_shift"} == small.provides - {"temporal_shift"}


@pytest.mark.slow
def test_the_table_in_the_docs_is_what_is_measured() -> None:
    families.TABLE.require(families.table({family: measured(family) for family in FAMILIES}))
