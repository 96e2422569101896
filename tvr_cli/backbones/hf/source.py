"""From a backbone's name to what is needed to build it: configuration, weights files, picture, tokenizer.

    hf:ORG/NAME[@REVISION]    a repository in the cache of the Hugging Face hub
    hf:FOLDER                 a folder that transformers wrote: it begins with `/`, `.` or `~`
    local:FOLDER              the same, where nothing else in the folder could be meant (`registry.py`)

Resolving reads small files only, imports no transformers and never touches the network.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvr_cli import commands
from tvr_cli.backbones.hf import weights as weights_module
from tvr_cli.backbones.hf.hub import MAIN, Place
from tvr_cli.backbones.hf.preprocessing import FILES as PICTURE_FILES
from tvr_cli.backbones.hf.preprocessing import Preprocessing
from tvr_cli.backbones.hf.published import PUBLISHED, licence_of
from tvr_cli.backbones.hf.recipes import RECIPES, REFUSED, Config, Recipe
from tvr_cli.backbones.hub import Wanted, fetch
from tvr_cli.backbones.published import Licence
from tvr_cli.backbones.tokenizer import BESIDE_TOKENIZERS, TOKENIZERS
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem, reason
from tvr_cli.files import parse_json

CONFIG = "config.json"
SCHEME = "hf:"
_LOCAL = "local:"
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@(\S+))?")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in one file; parts are for `hf download`
# What a configuration says of who wrote it, and not of the model.
_OF_THE_WRITER = {"transformers_version", "_name_or_path", "_commit_hash", "torch_dtype", "dtype", "architectures"}


@dataclass(frozen=True)
class Source:
    """Everything about a backbone but its tensors.

    name: what `load` takes again. config: what `config.json` says. folder: where its files are, None while they are not
    on this machine. weights: its files of weights there. place: the repository it comes from, None for a folder.
    """

    name: str
    config: Config
    pixels: Preprocessing
    folder: Path | None
    weights: tuple[Path, ...]
    place: Place | None = None

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    @property
    def recipe(self) -> Recipe:
        return RECIPES[self.model_type]

    @property
    def licence(self) -> Licence:
        return Licence() if self.place is None else licence_of(self.place.repository)

    @property
    def published_as(self) -> str:
        """What the weights are called where they come from: `ORG/NAME@COMMIT`, or a folder."""
        if self.place is None:
            return str(self.folder)
        return f"{self.place.repository}@{self.place.commit or self.place.revision}"

    @property
    def whole_config(self) -> Any:
        """The configuration as transformers makes it, with its class's defaults.

        Raises EnvironmentProblem without transformers or with one that does not know the class, DataError for one that
        it cannot follow.
        """
        kind = self.model_class
        try:
            with weights_module.quiet():
                return kind.config_class.from_dict(dict(self.config))
        except Exception as e:  # whatever a configuration of strange values makes a class do
            raise DataError(f"{self._shown} is not a configuration of a {self.model_type}: {reason(e)}") from e

    @property
    def model_class(self) -> Any:
        try:
            import transformers
        except ImportError as e:
            raise EnvironmentProblem(
                f"the backbone {self.name!r} needs the package transformers: pip install 'tvr-cli[hf]'"
            ) from e
        try:
            return getattr(transformers, self.recipe.architecture)
        except (AttributeError, ImportError) as e:
            raise EnvironmentProblem(
                f"transformers {transformers.__version__} has no {self.recipe.architecture}, which {self.name!r} needs"
                ": pip install -U 'tvr-cli[hf]'"
            ) from e

    @property
    def tokenizer_files(self) -> tuple[Path, ...]:
        """What its tokenizer is made of, empty where the folder has none."""
        if self.folder is None or not any((self.folder / name).is_file() for name in TOKENIZERS):
            return ()
        return tuple(file for name in (*TOKENIZERS, *BESIDE_TOKENIZERS) if (file := self.folder / name).is_file())

    @property
    def remote_files(self) -> list[Wanted]:
        """The files of the hub that loading needs; weights in parts are not among them (`hf download` gets those)."""
        if self.place is None:
            return []
        repository, revision = self.place.repository, None if self.place.revision == MAIN else self.place.revision
        needed = [(CONFIG,), _WEIGHTS, TOKENIZERS, PICTURE_FILES]
        return [
            *(Wanted(repository, names, revision) for names in needed),
            *(Wanted(repository, (name,), revision, optional=True) for name in BESIDE_TOKENIZERS),
        ]

    def fetch(self) -> None:
        """Download what loading needs and is not here. Raises EnvironmentProblem when that fails."""
        if self.place is None:
            return
        wanted = [each for each in self.remote_files if not self.weights or each.names != _WEIGHTS]
        try:
            fetch(wanted, again=commands.tvr("backbones", "get", self.name))
        except EnvironmentProblem as e:
            raise self.place.missing(f"and cannot be downloaded ({e})") from e

    def files(self) -> Path:
        """Return the folder of its files. Raises EnvironmentProblem where it or the weights in it are not here."""
        if self.folder is not None and self.weights:
            return self.folder
        if self.place is not None:
            raise self.place.missing("and --offline forbids to download it")
        raise EnvironmentProblem(
            f"no weights in {str(self.folder)!r}: expected 'model.safetensors', or parts with their index, beside "
            f"{CONFIG!r}"
        )

    def identity(self, preprocessing: Mapping[str, Any], *, temporal_shift: bool) -> dict[str, Any]:
        """Return what decides the values of the backbone's features; see `Backbone.identity`.

        All of it is of the files' content: a folder that was moved, or a commit that changed a page of words, is still
        the same backbone. preprocessing: `Description.preprocessing`.
        """
        model = {key: value for key, value in self.config.items() if key not in _OF_THE_WRITER}
        content = "".join(f"{file.name}:{weights_module.sha256_of((file,))};" for file in self.tokenizer_files)
        return {
            "name": f"transformers/{self.recipe.architecture}",
            "config": hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest(),
            "weights": weights_module.sha256_of(self.weights),
            "preprocessing": {**preprocessing, "mean": list(self.pixels.mean), "std": list(self.pixels.std)},
            "text": {
                "canonical": self.recipe.canonical,
                "pads": self.recipe.pads,
                "tokenizer": hashlib.sha256(content.encode()).hexdigest(),
            },
            "temporal_shift": temporal_shift,
            **({} if (chat := self.recipe.chat) is None else {"instructions": dataclasses.asdict(chat)}),
        }

    def in_full(self, name: str) -> str:
        """Return the name that it was found by; of a folder with its whole path, which leads there from anywhere."""
        if self.place is not None or self.folder is None:
            return name
        return f"{_LOCAL if name.startswith(_LOCAL) else SCHEME}{self.folder.resolve()}"

    @property
    def _shown(self) -> str:
        return repr(str(self.folder / CONFIG)) if self.folder is not None else repr(self.name)


def resolve(name: str) -> Source:
    """Find out what a name means.

    Raises ConfigError for a name that means nothing, DataError for files that are no model with a recipe,
    EnvironmentProblem for those that are not there.
    """
    what = name.removeprefix(SCHEME)
    if name.startswith(_LOCAL) or what.startswith(("/", ".", "~")):
        return of_folder(Path(what.removeprefix(_LOCAL)).expanduser())
    found = _REPOSITORY.fullmatch(what) if name.startswith(SCHEME) else None
    if found is None:
        raise ConfigError(
            f"{name!r} names no model of transformers; expected hf:ORG/NAME, hf:ORG/NAME@REVISION, or hf:FOLDER where "
            "FOLDER begins with / or ."
        )
    place = Place(found[1], found[2] or MAIN)
    if (folder := place.folder) is not None:
        return _read(name, folder, place)
    if (known := PUBLISHED.get(place.repository)) is None:
        raise place.missing("and tvr knows nothing of it by itself")
    return Source(name, known.config, known.pixels, None, (), place)


def of_folder(folder: Path) -> Source:
    """Read a folder that transformers wrote. Raises as `resolve`."""
    if not folder.is_dir():
        raise EnvironmentProblem(f"no folder at {str(folder)!r}; expected one with {CONFIG!r}, weights and a tokenizer")
    return _read(f"{SCHEME}{folder.resolve()}", folder)


def model_type_of(folder: Path) -> str | None:
    """Return what a folder's `config.json` says it is, None where it says nothing."""
    try:
        found = parse_json((folder / CONFIG).read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def _read(name: str, folder: Path, place: Place | None = None) -> Source:
    file = folder / CONFIG
    try:
        config = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"expected {CONFIG!r} in {str(folder)!r}, found none") from None
    except (OSError, ValueError) as e:
        raise DataError(f"{str(file)!r} is not a configuration of transformers: {reason(e)}") from e
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in RECIPES:
        raise _no_recipe(kind, file)
    try:
        wanted = RECIPES[kind].size(config)
    except (TypeError, ValueError, AttributeError) as e:
        raise DataError(f"{str(file)!r} is not a configuration of a {kind}: {reason(e)}") from e
    pixels = Preprocessing.of_folder(folder, wanted if RECIPES[kind].any_shape else None)
    if wanted is not None and wanted != pixels.size:
        raise DataError(
            f"{str(file)!r} takes pictures of {wanted} pixels, but the processor's configuration beside it makes them "
            f"of {pixels.size}; they are of two models"
        )
    return Source(name, config, pixels, folder, weights_module.find(folder), place)


def _no_recipe(kind: Any, file: Path) -> DataError:
    if isinstance(kind, str) and (why := REFUSED.get(kind)):
        return DataError(f"{str(file)!r} is of a {kind}, which tvr cannot use: {why}")
    found = f"is of a {kind}" if isinstance(kind, str) else "names no model_type"
    return DataError(f"{str(file)!r} {found}, and tvr has recipes for {', '.join(sorted(RECIPES))} only")
