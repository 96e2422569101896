"""Plausible mistakes, as edits of the source, that a golden test must catch: one file a method.

`tests/methods/mutations/<method>.py` holds `MUTATIONS: list[Mutation]`, at least ten. For each, `test_mutations.py`
copies the sources, makes the edit and runs the method's golden tests on the committed golden files; they must fail. A
fast test checks that every `old` still occurs exactly once, so that a list does not rot.

    from mutations import Mutation

    MUTATIONS = [
        Mutation("the second softmax is dropped", "kernels/tvr_kernels/tcmgc/ranks.py", old="...", new="..."),
    ]

Take mistakes that somebody could make (masked mean, exact GELU, missing LayerNorm, transposed matrix, biased variance,
detached gap, dropped term, wrong axis), in the file that computes it; what only one of two equal forms computes
(reference, folded) is caught by that form's test. Make `old` long enough to be unique, and keep the edit valid Python.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One edit. name: the mistake in words; file: path from the repository's root; old: occurs there exactly once."""

    name: str
    file: str
    old: str
    new: str
