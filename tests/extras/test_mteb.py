"""`tvr mteb` against MTEB itself, in the second environment of `.ci/run`; elsewhere skipped, and it says so."""

from __future__ import annotations

import inspect

import pytest

pytest.importorskip("mteb", reason="the extra mteb is not installed (second environment of .ci/run)")


def test_the_protocol_of_search_is_the_one_that_was_read():
    from mteb.models.models_protocols import SearchProtocol

    known = {
        "index": ["self", "corpus", "task_metadata", "hf_split", "hf_subset", "encode_kwargs", "num_proc"],
        "search": [
            "self", "queries", "task_metadata", "hf_split", "hf_subset", "top_k", "encode_kwargs", "top_ranked",
            "num_proc",
        ],
    }  # fmt: skip
    found = {name: list(inspect.signature(getattr(SearchProtocol, name)).parameters) for name in known}
    assert found == known
