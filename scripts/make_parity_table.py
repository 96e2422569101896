"""Measure each family of encoders against its library and write the tables into docs/backbones.md.

Run: python scripts/make_parity_table.py [transformers] (about two minutes, seconds for transformers' alone; needs that
package). Tests, tests/unit/test_families.py and test_hf_backbone.py, fail when a table on the page is another one.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import families  # noqa: E402
import hf_families  # noqa: E402
import hf_folders  # noqa: E402
from parity_table import PAGE  # noqa: E402


def main() -> None:
    if sys.argv[1:] != ["transformers"]:
        of_open_clip()
    of_transformers()


def of_open_clip() -> None:
    rows = {}
    for family in families.FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            rows[family] = families.measure(family, Path(folder).resolve())
        print(family.name, rows[family], file=sys.stderr, flush=True)
    PAGE.write_text(families.TABLE.on(PAGE.read_text(), families.table(rows)))


def of_transformers() -> None:
    rows = {}
    for kind in hf_folders.KINDS:
        with tempfile.TemporaryDirectory() as folder:
            rows[kind] = hf_families.measure(kind, hf_folders.make(kind, Path(folder).resolve() / kind))
        print(kind, rows[kind], file=sys.stderr, flush=True)
    PAGE.write_text(hf_families.TABLE.on(PAGE.read_text(), hf_families.table(rows)))


if __name__ == "__main__":
    main()
