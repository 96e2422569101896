"""Write `tvr_cli/methods/catalogue.json`: what `tvr methods` says of the shipped ones, so that it imports none of them.

python scripts/make_method_catalogue.py     after a change of a method; a test compares
"""

from __future__ import annotations

import json

from tvr_cli.engine.whole import catalogue
from tvr_cli.methods import base
from tvr_cli.results.base import plain


def main() -> None:
    cards = [plain(catalogue.describe(name)) for name in base.shipped()]
    catalogue.SHIPPED.write_text(json.dumps(cards, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
