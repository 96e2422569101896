"""What is needed to encode sentences as a backbone does, remembered from the last time that it was loaded.

Loading a backbone finds out what its name means, where its weights lie, what they hash to and what they were trained
with. Where nothing of that has changed since (the files by their stamps, the packages by their versions), the text
tower alone answers for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tvr_cli import files, user_cache
from tvr_cli.backbones.text_tower.bpe import BytePairs
from tvr_cli.backbones.text_tower.mapped import MappedTensors
from tvr_cli.backbones.text_tower.tower import Configuration, TextTower
from tvr_cli.version import __version__

_KIND = "text-tower"
_LIBRARY = "open_clip"  # whose tables say what names mean


@dataclass(frozen=True)
class TextCard:
    """A text tower that was loaded before.

    identity: the backbone's (`Backbone.identify`). sources: what else decided how it is read: a folder, its
    configuration.
    """

    identity: Mapping[str, Any]
    weights: Path
    merges: Path
    configuration: Configuration
    sources: Sequence[Path] = ()

    @property
    def files(self) -> list[Path]:
        """What must be unchanged for the card to hold."""
        return [self.weights, self.merges, *self.sources]

    def open(self) -> tuple[BytePairs, TextTower]:
        """Return tokenizer and tower. Raises DataError for weights that it cannot be made of."""
        return BytePairs(self.merges), TextTower(MappedTensors(self.weights), self.configuration)


def remember(name: str, card: TextCard) -> None:
    """Keep a card under a backbone's name."""
    stamps = [files.stamp(path) for path in card.files]
    if all(stamp is not None and user_cache.is_quiet(stamp) for stamp in stamps):
        about = {"identity": card.identity, "configuration": asdict(card.configuration), "versions": _versions()}
        where = {"files": [str(path.resolve()) for path in card.files], "stamps": stamps}
        user_cache.keep(_KIND, name, {"name": name, **about, **where})


def recall(name: str) -> TextCard | None:
    """Return the card of a backbone's name, None where there is none or something has changed since."""
    kept = user_cache.recall(_KIND, name)
    try:
        if kept["name"] != name or kept["versions"] != _versions():
            return None
        weights, merges, *sources = map(Path, kept["files"])
        if [list(files.stamp(path) or ()) for path in (weights, merges, *sources)] != kept["stamps"]:
            return None
        about = kept["configuration"]
        configuration = Configuration(int(about["heads"]), bool(about["quick_gelu"]), int(about["context_length"]))
        return TextCard(dict(kept["identity"]), weights, merges, configuration, sources)
    except (KeyError, TypeError, ValueError):
        return None


def _versions() -> dict[str, Any]:
    """Return the version of tvr, and where the library lies and the stamp of the file that says its own.

    Not the number itself: looking up what is installed takes a tenth of a light query's start.
    """
    library = find_spec(_LIBRARY)
    version = Path(library.origin).with_name("version.py") if library is not None and library.origin else None
    stamp = files.stamp(version) if version is not None else None
    return {"tvr": __version__, _LIBRARY: [str(version), *(stamp or ())]}
