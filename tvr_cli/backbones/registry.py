"""Finding a backbone by name; the class that the name leads to does the rest (`base.Backbone`).

    clip-vit-b32                        a preset: another name for one of those below
    ARCH/TAG  ARCH@FILE  demo-tiny      a model of open_clip (`openclip/`): names without a scheme are its
    local:PATH                          a folder that a shipped one was saved in, or a file of weights
    hf:ORG/NAME[@REVISION]  hf:FOLDER   a model of transformers (`hf/`)
    SCHEME  SCHEME:WHAT                 a file or folder beside this one, or an entry point of the group `tvr.backbones`
    package.module  package.module.Class    somebody else's class, `Backbone` where none is named
    NAME@FOLDER                         what one of the two above saved there

A colon before the class, as in names that saved folders got, is the same as a dot.

Only what a person names is imported. A name out of a file, which may come from anybody, goes through `require_named`
first, and no file in a saved folder says which class it is of.

A shipped backbone is a module or package beside this one that says `PACKAGE = "…"`, what pip calls its library.
Importing this file imports no library, nor torch.
"""

from __future__ import annotations

import pkgutil
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvr_cli import plugins
from tvr_cli.backbones.toy import is_toy
from tvr_cli.defaults import named_backbone
from tvr_cli.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tvr_cli.backbones.base import Backbone, Description

LOCAL = "local:"
# The scheme that names without one have.
WITHOUT_SCHEME = "openclip"
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+(:[^\W\d]\w*)?|[^\W\d]\w*:[^\W\d]\w*")


def packages() -> dict[str, str]:
    """Return what pip calls the library of each shipped backbone, by scheme."""
    found = {}
    folder = Path(__file__).parent
    for module in pkgutil.iter_modules([str(folder)]):
        file = folder / module.name / "__init__.py" if module.ispkg else folder / f"{module.name}.py"
        # Read, not imported: a library takes seconds to import, and need not be installed.
        if said := re.search(r'^PACKAGE = "(.+)"$', file.read_text(encoding="utf-8"), re.MULTILINE):
            found[module.name] = said[1]
    return found


KIND = plugins.Kind("backbone", "tvr_cli.backbones", "tvr.backbones", lambda: sorted(packages()))


def names() -> list[str]:
    """Return the names that need no argument, sorted: the presets, and the entry points of installed packages."""
    from tvr_cli.preset_loader import preset_names

    return sorted({*preset_names("backbones"), *KIND.names()} - packages().keys())


def resolve(name: str) -> Description:
    """Return what a backbone's name means, without weights and without the network.

    Raises ConfigError for a name that means nothing or leads to something else than a backbone, DataError for a folder
    or file that is not one, EnvironmentProblem for one that is not there.
    """
    if (target := _preset_target(name)) is not None:
        return _with_card(replace(resolve(target), name=name))
    about = class_of(name).describe(name)
    return _with_card(about) if is_toy(name) else about


def load(
    name: str,
    *,
    offline: bool = False,
    device: str | torch.device = "cpu",
    temporal_shift: bool = False,
    precision: torch.dtype | None = None,
) -> Backbone:
    """Load a backbone in evaluation mode, its parameters requiring gradients; precision None = fp32.

    Raises what `resolve` and `Backbone.load` raise, and ConfigError for an impossible temporal shift.
    """
    import torch

    about = resolve(name)
    backbone = about.kind.load(about, offline=offline)
    if temporal_shift:
        backbone.shift_patches()
    return backbone.to(device=device, dtype=precision or torch.float32).eval()


def skeleton(about: Description, *, temporal_shift: bool = False) -> Backbone:
    """Return a backbone without values, in evaluation mode. Raises ConfigError for an impossible temporal shift."""
    made = about.kind.skeleton(about)
    if temporal_shift:
        made.shift_patches()
    return made.eval()


def save(backbone: Backbone, folder: Path) -> str:
    """Write a backbone into a folder and return the name that loads it. Ask `cannot_save` before long work."""
    folder.mkdir(parents=True, exist_ok=True)
    backbone.save(folder)
    kind = type(backbone)
    return f"{LOCAL if kind.folder_mark else f'{kind.__module__}:{kind.__qualname__}@'}{folder.resolve()}"


def require_known_variable() -> None:
    """Raise ConfigError where TVR_BACKBONE means nothing, also for a command that something else tells the backbone."""
    named = named_backbone(None)
    if named is None or named in names():
        return
    try:
        resolve(named)
    except ConfigError as e:
        raise ConfigError(f"TVR_BACKBONE: {e}") from e


def require_named(stored: str, named: str | None, where: Path) -> None:
    """Refuse a dotted name out of a file unless it was named by a person too, or TVR_BACKBONE is it.

    stored: the name in the file. named: what was typed or passed for it, None = nothing. where: the file.
    Raises DataError. The folder behind a class does not matter: the class is what is imported.
    """
    kind = _without_folder(stored)
    people = (named, named_backbone(None))
    if _is_dotted(kind) and _dots(kind) not in [_dots(_without_folder(name)) for name in people if name]:
        raise DataError(
            f"{str(where)!r} names the backbone {stored!r}, a module of another package, and a file alone never "
            f"imports one; if you trust it, name it too: --backbone {shlex.quote(stored)}, or TVR_BACKBONE"
        )


def is_same(stored: str, named: str) -> bool:
    """Whether a person's name means the backbone that a store calls `stored`: the same words, class or weights.

    Raises what `resolve` raises for a name that means nothing.
    """
    if stored == named:
        return True
    kind, other = _without_folder(stored), _without_folder(named)
    if _is_dotted(kind) or _is_dotted(other):
        return _dots(kind) == _dots(other)
    return resolve(stored).source == resolve(named).source


def must_be_named(stored: str) -> bool:
    """Whether a command that works with a stored backbone has to name it (`require_named`)."""
    return _is_dotted(_without_folder(stored))


def from_clip_state(state: Mapping[str, Tensor], name: str) -> Backbone:
    """Return a backbone of the CLIP weights in an authors' checkpoint, under OpenAI's names; sizes are inferred.

    Raises DataError when the names are not OpenAI's.
    """
    from tvr_cli.backbones.openclip import OpenClipBackbone

    return OpenClipBackbone.from_state_dict(state, name=name)


def class_of(name: str) -> type[Backbone]:
    """Return the class that a name (not a preset) leads to. Raises ConfigError when it is none of a backbone."""
    if name.startswith(LOCAL):
        return _class_of_folder(Path(name.removeprefix(LOCAL)).expanduser())
    kind = _without_folder(name)
    if (scheme := kind.partition(":")[0]) in KIND.names():
        return _backbone_class(KIND.find(scheme), scheme)
    if _is_dotted(kind):
        if Path(name).exists():
            raise ConfigError(
                f"{name!r} is a file or folder; a backbone's weights are named by --backbone {LOCAL}{name}"
            )
        return _backbone_class(KIND.find(_dots(kind)), kind)
    return _backbone_class(KIND.find(WITHOUT_SCHEME), WITHOUT_SCHEME)


def _class_of_folder(path: Path) -> type[Backbone]:
    kinds = {scheme: _backbone_class(KIND.find(scheme), scheme) for scheme in packages()}
    held = [scheme for scheme, kind in kinds.items() if kind.holds(path)]
    if len(held) > 1:
        marks = " and ".join(repr(kinds[scheme].folder_mark) for scheme in held)
        libraries = " or by ".join(kinds[scheme].library for scheme in held)
        other = next(scheme for scheme in held if scheme != WITHOUT_SCHEME)
        raise DataError(
            f"{str(path)!r} holds {marks}, so it may be read by {libraries}, which need not agree; say --backbone "
            f"{other}:{shlex.quote(str(path.resolve()))} for {kinds[other].library}, or move "
            f"{kinds[other].folder_mark!r} away for the other"
        )
    return kinds[held[0] if held else WITHOUT_SCHEME]  # without any, it says what is missing


def _without_folder(name: str) -> str:
    return name.partition("@")[0]


def _dots(kind: str) -> str:
    """Return a dotted name with a dot before the class: `package.module:Class` means the same."""
    return kind.replace(":", ".")


def _is_dotted(kind: str) -> bool:
    """Whether a name means somebody's module by itself: no scheme, and nothing that open_clip or a path would have."""
    return bool(_DOTTED.fullmatch(kind)) and kind.partition(":")[0] not in KIND.names()


def _backbone_class(found: Any, name: str) -> type[Backbone]:
    """Return a class that was named, or a module's `Backbone`. Raises ConfigError when it is something else."""
    from tvr_cli.backbones.base import Backbone

    return KIND.subclass(name, found, "Backbone", Backbone)


def _preset_target(name: str) -> str | None:
    """Return what a preset stands for, None where the name is no preset (or stands for itself, as what ships does)."""
    from tvr_cli.config import flatten, preset_layers
    from tvr_cli.preset_loader import preset_names

    if is_toy(name) or name not in preset_names("backbones"):
        return None
    target = None
    for layer in preset_layers("backbones", name):
        target = flatten(layer.tree).get("backbone.name", target)
    if not target or target == name:
        raise ConfigError(
            f"the preset backbones/{name}.yaml names no backbone; expected `backbone: {{name: ARCH/TAG}}`"
        )
    return str(target)


def _with_card(about: Description) -> Description:
    """Add what the preset says of the weights; its licence counts only where their class knows none."""
    from tvr_cli.backbones.published import Card
    from tvr_cli.config import preset_card

    card = preset_card(about.name, Card)
    if about.licence and card.licence:
        raise ConfigError(
            f"presets/backbones/{about.name}.yaml: card.licence: the licence of {about.source} is known to be "
            f"{about.licence}; leave it out"
        )
    if about.licence:
        return replace(about, card=card)
    return replace(about, card=card, licence=card.licence, non_commercial=card.non_commercial)
