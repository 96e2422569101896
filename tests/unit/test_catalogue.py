"""The list of methods is read, not computed: it equals what the methods say, and imports none of them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tvr_cli.engine.whole import catalogue
from tvr_cli.methods import base
from tvr_cli.results.base import plain


@pytest.mark.parametrize("name", base.shipped())
def test_the_file_says_what_the_method_says(name):
    kept = {card["name"]: card for card in json.loads(catalogue.SHIPPED.read_text(encoding="utf-8"))}

    assert sorted(kept) == sorted(base.shipped())
    # made again by scripts/make_method_catalogue.py
    assert kept[name] == json.loads(json.dumps(plain(catalogue.describe(name))))


@pytest.mark.parametrize("words", [["methods"], ["methods", "show", "glccl"], ["methods", "--json"]])
def test_a_list_of_methods_imports_no_torch(words):
    code = (
        "import sys\nfrom tvr_cli.cli import main\n"
        f"sys.argv = ['tvr', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.rstrip().endswith("False") and "glccl" in done.stdout
