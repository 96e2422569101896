"""Under which licence weights that open_clip knows were published; read from their model cards.

It belongs to weights and not to presets: whoever types `ARCH/TAG` is told as well. Weights that are not listed, and
files of one's own, have none that we know.
"""

from __future__ import annotations

import re

from tvr_cli.backbones.published import Licence

_APPLE = Licence("Apple AMLR (research only)", non_commercial=True)
_NON_COMMERCIAL = Licence("CC-BY-NC-4.0", non_commercial=True)
_MIT, _APACHE = Licence("MIT"), Licence("Apache-2.0")
# The first pattern that is found in `ARCH/TAG` counts.
_LICENCES = (
    (r"^MobileCLIP", _APPLE),
    (r"/dfn", _APPLE),
    (r"/metaclip", _NON_COMMERCIAL),
    (r"^nllb-clip", _NON_COMMERCIAL),
    (r"SigLIP", _APACHE),
    (r"^PE-Core", _APACHE),
    (r"^demo-tiny", _APACHE),  # tvr's own
    (r"^EVA0", _MIT),
    (r"/(openai|laion|datacomp|commonpool)", _MIT),
)


def licence_of(weights: str) -> Licence:
    """Return the licence of published weights, `ARCH/TAG`."""
    return next((found for pattern, found in _LICENCES if re.search(pattern, weights)), Licence())
