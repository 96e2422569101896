"""Measure each family of encoders against open_clip and write the table into docs/backbones.md.

Run: python scripts/make_parity_table.py (about two minutes; needs the package transformers). A test,
tests/unit/test_families.py, fails when the table on the page is another one.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import families  # noqa: E402


def main() -> None:
    rows = {}
    for family in families.FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            rows[family] = families.measure(family, Path(folder).resolve())
        print(family.name, rows[family], file=sys.stderr, flush=True)
    page = ROOT / "docs" / "backbones.md"
    page.write_text(families.with_table(page.read_text(), families.table(rows)))


if __name__ == "__main__":
    main()
