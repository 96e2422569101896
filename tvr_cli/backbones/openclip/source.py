"""From a backbone's name to what is needed to build it: configuration, weights file, pixel statistics, tokenizer.

Resolving loads no weights (a single weights file is read to infer its sizes) and never touches the network, so that a
dry run can say what a backbone would cost before it is there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

import tvr_cli.backbones.openclip.weights as weights_module
from tvr_cli import commands, files, user_cache
from tvr_cli.backbones import toy
from tvr_cli.backbones.hub import Wanted, fetch, no_network
from tvr_cli.backbones.openclip.preprocessing import Preprocessing
from tvr_cli.backbones.openclip.temporal_shift import can_shift
from tvr_cli.backbones.openclip.tokenizer import of_open_clip
from tvr_cli.backbones.tensor_files import read_state
from tvr_cli.backbones.tokenizer import BESIDE_TOKENIZERS, TOKENIZERS, Tokenizer
from tvr_cli.backbones.toy import is_toy
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem, advises_to_trust, did_you_mean, reason
from tvr_cli.log import logger

CONFIG = "open_clip_config.json"
_TEXT_MODEL = "config.json"  # of a text model of Hugging Face's
# The sizes of text models that presets need, so that a list, a dry run or a skeleton asks no hub for them.
_TEXT_MODELS = Path(__file__).resolve().parent / "text_models"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Source:
    """Everything about a backbone but its tensors.

    name: what `load` takes again. architecture: the name in a store's identity, incl. `-quickgelu`. weights: the file,
    None where it is not on this machine. tokenizer_name: None for an unknown vocabulary. tokenizer_folder: where a
    tokenizer of Hugging Face's is read, None = on its hub. beside: the folder of weights that a person named, in which
    the configuration of a text model may lie. state: tensors that had to be read to infer `model`.
    """

    name: str
    architecture: str
    model: Mapping[str, Any]
    weights: Path | None
    pixels: Preprocessing = field(default_factory=Preprocessing)
    tokenizer_name: str | None = None
    tokenizer_options: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_folder: Path | None = None
    beside: Path | None = None
    origin: weights_module.Origin | None = None
    state: Mapping[str, Tensor] | None = None

    @property
    def mean(self) -> tuple[float, ...]:
        return self.pixels.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.pixels.std

    @property
    def dim(self) -> int:
        return int(self.model["embed_dim"])

    @property
    def image_size(self) -> int:
        size = self.model["vision_cfg"].get("image_size", 224)
        return int(size[0] if isinstance(size, list | tuple) else size)

    @property
    def context_length(self) -> int:
        return int(self.model["text_cfg"].get("context_length", 77))

    @property
    def provides(self) -> frozenset[str]:
        """What the towers that open_clip builds of `model` will yield: `OpenClipBackbone` reads it off the towers."""
        vision, text = self.model["vision_cfg"], self.model["text_cfg"]
        hides_tokens = text.get("hf_model_name") or text.get("embed_cls")
        shifts = not vision.get("timm_model_name") and can_shift(vision.get("layers", 12), self.patches + 1)
        extra = {"tokens": not hides_tokens, "temporal_shift": shifts, "video.patches": _projects_patches(vision)}
        return frozenset({"frames", "pooled", *(name for name, has in extra.items() if has)})

    @property
    def patches(self) -> int:
        """Patches of a picture, of a ViT."""
        return (self.image_size // int(self.model["vision_cfg"].get("patch_size") or 16)) ** 2

    @property
    def published_as(self) -> str:
        """What the weights are called where they come from: `ARCH/TAG`, or a file."""
        if self.origin is not None:
            return self.architecture
        if is_toy(self.name):
            return "shipped with tvr"
        return "a checkpoint in memory" if self.weights is None else str(self.weights)

    @property
    def expected_at(self) -> str:
        """Say where weights that are not on this machine would be found, for people."""
        if self.origin is None:
            return ""
        return f"{self.origin.places()}, or a copy anywhere that is named by --backbone {self.origin.arch}@FILE"

    @property
    def remote_files(self) -> list[Wanted]:
        """The files of the hub that loading needs: weights, tokenizer, the configuration of a text model."""
        if self.origin is None or self.origin.hub is None:
            return self._remote_text
        repository, names = self.origin.hub
        return [Wanted(repository, tuple(names)), *self._remote_text]

    @property
    def _remote_text(self) -> list[Wanted]:
        text = self.model["text_cfg"]
        wanted = []
        if (tokenizer := text.get("hf_tokenizer_name")) and self.tokenizer_folder is None:
            wanted.append(Wanted(tokenizer, TOKENIZERS))
            # The configuration says of some which class they are.
            wanted += [Wanted(tokenizer, (name,), optional=True) for name in (*BESIDE_TOKENIZERS, _TEXT_MODEL)]
        if (named := text.get("hf_model_name")) and self.buildable["text_cfg"]["hf_model_name"] == named:
            wanted.append(Wanted(named, (_TEXT_MODEL,)))
        return wanted

    def fetched(self, *, offline: bool) -> Source:
        """Return it with its weights, downloading what loading needs and is not here unless `offline`.

        Raises EnvironmentProblem when they cannot be had.
        """
        if self.weights is None and self.origin is None:
            raise EnvironmentProblem(f"no weights for the backbone {self.name!r}")
        if not offline:
            self._fetch()
        elif self.weights is None and self.origin is not None:
            raise self.origin.missing("and --offline forbids to download them")
        if self.weights is not None or self.origin is None:
            return self
        if (found := self.origin.find()) is None:
            raise self.origin.missing("though they were downloaded")
        return replace(self, weights=found)

    def _fetch(self) -> None:
        wanted = self.remote_files if self.weights is None else self._remote_text
        try:
            fetch(wanted, again=commands.tvr("backbones", "get", self.name))
        except EnvironmentProblem as e:
            if self.weights is None and self.origin is not None:
                raise self.origin.missing(f"and cannot be downloaded ({e})") from e
            logger.info("%s", e)  # what is missing is said by what needs it

    def identity(self, preprocessing: Mapping[str, Any], *, temporal_shift: bool) -> dict[str, Any]:
        """Return what decides the values of the backbone's features; see `Backbone.identity`.

        preprocessing: `Description.preprocessing`.
        """
        if self.weights is not None:
            sha256 = user_cache.sha256_of(self.weights)
        else:
            sha256 = weights_module.state_sha256(self.state or {})
        said = {
            "name": self.architecture,
            "weights": sha256,
            "preprocessing": {**preprocessing, "mean": list(self.mean), "std": list(self.std)},
            "temporal_shift": temporal_shift,
        }
        return {**said, "text": self.text_settings} if self.text_settings else said

    @property
    def text_settings(self) -> dict[str, Any]:
        """What is done to captions on their way to ids; what is done to all, and was in 0.1.0, is left out."""
        text = self.model["text_cfg"]
        options = text.get("tokenizer_kwargs") or {}
        looks_back = not (text.get("hf_model_name") or text.get("no_causal_mask"))
        said = {
            "clean": options.get("clean"),
            "separator": "stripped" if options.get("strip_sep_token") else None,
            "mode": text.get("tokenizer_mode"),
            # 0.1.0 gave such towers zeros
            "pads": "the tokenizer's" if text.get("hf_tokenizer_name") and looks_back else None,
        }
        return {name: value for name, value in said.items() if value}

    @property
    def buildable(self) -> Mapping[str, Any]:
        """The configuration to build from: with that of Hugging Face's text model from a folder, where there is one."""
        if not (named := self.model["text_cfg"].get("hf_model_name")):
            return self.model
        folder = self._text_model_beside
        if folder is None and self.origin is not None and (_TEXT_MODELS / named / _TEXT_MODEL).is_file():
            folder = _TEXT_MODELS / named
        if folder is None:
            return self.model
        return {**self.model, "text_cfg": {**self.model["text_cfg"], "hf_model_name": str(folder)}}

    @property
    def _text_model_beside(self) -> Path | None:
        from open_clip.hf_configs import arch_dict

        if self.beside is None:
            return None
        try:
            kind = files.parse_json((self.beside / _TEXT_MODEL).read_text(encoding="utf-8"))["model_type"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return self.beside if kind in arch_dict else None  # else it is that of the whole model, for transformers

    def tokenizer(self, *, offline: bool) -> Tokenizer | None:
        """Return the tokenizer, None for an unknown vocabulary.

        Raises EnvironmentProblem when it is not there, DataError when its files cannot be read.
        """
        if self.tokenizer_name is None:
            return None
        with no_network(), weights_module.no_remote_code(self.model):
            if self.model["text_cfg"].get("hf_tokenizer_name"):
                return of_open_clip(self.hugging_face_tokenizer(offline=offline))
            from open_clip import get_tokenizer

            return of_open_clip(get_tokenizer(self.tokenizer_name, **self.tokenizer_options))

    def hugging_face_tokenizer(self, *, offline: bool) -> Any:
        """Return open_clip's wrapper of the tokenizer that lies beside the weights, else of the one on the hub."""
        from open_clip.tokenizer import HFTokenizer

        text = self.model["text_cfg"]
        named, folder = text["hf_tokenizer_name"], self.tokenizer_folder
        where = named if folder is None else str(folder)
        options = {**(text.get("tokenizer_kwargs") or {}), "context_length": self.context_length}
        if text.get("tokenizer_mode"):
            options["tokenizer_mode"] = text["tokenizer_mode"]
        options["trust_remote_code"] = False  # whatever a folder's configuration says
        try:
            return HFTokenizer(where, **options)
        except ImportError as e:
            raise EnvironmentProblem(
                f"the tokenizer of {self.name!r} needs the package {e.name!r}: pip install transformers sentencepiece"
            ) from e
        except Exception as e:  # the tokenizers library raises a plain Exception for a file that it cannot read
            if advises_to_trust(e):
                raise  # to `no_remote_code`
            if folder is not None and _has_tokenizer(folder):
                raise DataError(f"the tokenizer in {where!r} of {self.name!r} cannot be read: {reason(e)}") from e
            if folder is not None:
                not_here = f"in {where!r}"
            else:
                not_here = f"and was not downloaded{' (--offline)' if offline else ''}"
            raise EnvironmentProblem(
                f"the tokenizer {named!r} of {self.name!r} is not on this machine {not_here}: {reason(e)}. Put its "
                f"files ({', '.join(_TOKENIZER_FILES)}) beside the weights and name those with --backbone"
            ) from e


def resolve(name: str) -> Source:
    """Find out what `name` means: one that ships with tvr, `local:PATH`, `ARCH@FILE` or `ARCH/TAG`.

    Raises ConfigError for a name that means nothing (with the nearest one), DataError for a folder or file that is not
    a backbone, EnvironmentProblem for one that is not there.
    """
    if is_toy(name):
        return _toy(name)
    if name.startswith("local:"):
        return _local(Path(name.removeprefix("local:")).expanduser())
    if "@" in name:
        return _file_of(*name.split("@", 1))
    if "/" in name:
        return _tagged(*name.rsplit("/", 1))
    raise _unknown(name)


def _projects_patches(vision: Mapping[str, Any]) -> bool:
    """Whether a tower is one of open_clip's own ViTs whose class token is all that its pooling takes."""
    pooling = ("attentional_pool", "final_ln_after_pool")
    named = vision.get("timm_model_name") or vision.get("pool_type", "tok") != "tok"
    return isinstance(vision.get("layers", 12), int) and not named and not any(vision.get(name) for name in pooling)


def _tagged(arch: str, tag: str) -> Source:
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    arch = arch.replace("/", "-")
    model = _builtin(arch, f"{arch}/{tag}")
    settings, plain = get_pretrained_cfg(arch, tag), arch.removesuffix("-quickgelu")
    if not settings and plain != arch:
        settings = get_pretrained_cfg(plain, tag)  # some that need QuickGELU are listed under the plain name alone
        if settings and not settings.get("quick_gelu", False):
            raise ConfigError(f"the weights {tag!r} were not trained with QuickGELU; say {plain}/{tag}")
    if not settings:
        tags = list_pretrained_tags_by_model(arch)
        near = did_you_mean(tag, tags) or f"; there are: {', '.join(tags) or 'none'}"
        raise ConfigError(f"open_clip knows no weights {tag!r} for {arch}{near}")
    if bool(settings.get("quick_gelu", False)) and not model.get("quick_gelu", False):
        arch, model = _with_quickgelu(arch, tag)
    origin = weights_module.Origin(arch, tag, settings)
    return Source(
        name=f"{arch}/{tag}",
        architecture=f"{arch}/{tag}",
        model=model,
        weights=origin.find(),
        pixels=Preprocessing.read(settings, f"{arch}/{tag}"),
        tokenizer_name=arch,
        origin=origin,
    )


def _with_quickgelu(arch: str, tag: str) -> tuple[str, dict[str, Any]]:
    """The same weights under GELU give wrong features without any error, so the architecture is corrected, audibly."""
    from open_clip import get_model_config

    right = f"{arch}-quickgelu"
    model = get_model_config(right)
    if model is None:
        raise ConfigError(f"{arch}/{tag} was trained with QuickGELU, and open_clip has no architecture {right!r}")
    logger.warning("%s/%s was trained with QuickGELU: taking %s/%s instead", arch, tag, right, tag)
    return right, model


def _file_of(arch: str, file: str) -> Source:
    path = Path(file).expanduser()
    model = _builtin(arch, f"{arch}@{file}")
    if not path.is_file():
        raise EnvironmentProblem(f"no weights file at {str(path)!r} for --backbone {arch}@FILE")
    shown = f"{arch}@{path.resolve()}"
    beside = path.resolve().parent
    return Source(
        shown,
        arch,
        model,
        path,
        Preprocessing.usual(arch),
        tokenizer_name=arch,
        tokenizer_folder=beside if _has_tokenizer(beside) else None,
        beside=beside,
    )


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def _local(path: Path) -> Source:
    name = f"local:{path.resolve()}"
    if path.is_dir():
        return _folder(path, name)
    if not path.is_file():
        raise EnvironmentProblem(
            f"--backbone {f'local:{path}'!r}: nothing there; expected a folder with 'open_clip_config.json' and "
            "weights, or a file of CLIP weights"
        )
    state = read_state(path)
    model = weights_module.openai_config(state)
    arch = known_architecture(model)
    logger.info("%s: taken as OpenAI-style weights of %s; if they need GELU, say ARCH@%s", path.name, arch, path)
    vocabulary = "ViT-B-32" if model["text_cfg"]["vocab_size"] == 49408 else None
    return Source(name, arch, model, path, tokenizer_name=vocabulary, state=state)


def _toy(name: str) -> Source:
    if name not in toy.folders():
        raise EnvironmentProblem(f"the backbone {name!r} is not in this installation; reinstall tvr-cli")
    return _folder(toy.folders()[name], name)


def _folder(folder: Path, name: str) -> Source:
    """A folder of weights and a configuration as open_clip writes it: `model_cfg`, `preprocess_cfg`.

    A `*.txt.gz` beside it is the list of BPE merges (open_clip would look for it in the working directory).
    """
    file = folder / CONFIG
    try:
        config = files.parse_json(file.read_text(encoding="utf-8"))
        model = config.get("model_cfg", config)
        missing = {"embed_dim", "vision_cfg", "text_cfg"} - set(model)
    except FileNotFoundError:
        raise DataError(f"expected {CONFIG!r} in {str(folder)!r}, found {_found_instead(folder)}") from None
    except (ValueError, AttributeError, TypeError) as e:
        raise DataError(f"{str(file)!r} is not a model configuration of open_clip: {e}") from e
    if missing:
        raise DataError(f"{str(file)!r} lacks {', '.join(sorted(missing))}; expected open_clip's `model_cfg`")
    names = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "multimodal_cfg", "init_logit_bias")
    model = {k: copy.deepcopy(model[k]) for k in (*names, "init_logit_scale", "nonscalar_logit_scale") if k in model}
    size = model["vision_cfg"].get("image_size", 224)
    if isinstance(size, list | tuple) and len(set(size)) > 1:
        sides = " x ".join(map(str, size))
        raise DataError(f"{str(file)!r} takes pictures of {sides} pixels, and tvr makes squares only")
    pixels = Preprocessing.read(config.get("preprocess_cfg") or {}, repr(str(file)))
    tokenizer, options = _folder_tokenizer(folder, model)
    return Source(
        name=name,
        architecture=name if is_toy(name) else known_architecture(model),
        model=model,
        weights=weights_module.folder_weights(folder),
        pixels=pixels,
        tokenizer_name=tokenizer,
        tokenizer_options=options,
        tokenizer_folder=folder,
        beside=folder,
    )


def _found_instead(folder: Path) -> str:
    """Say what a folder without open_clip's configuration holds."""
    try:
        kind = files.parse_json((folder / _TEXT_MODEL).read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return "none"
    return f"the {_TEXT_MODEL} of a {kind} of transformers, for which tvr has no recipe"


def _folder_tokenizer(folder: Path, model: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    text = model["text_cfg"]
    context = {"context_length": text.get("context_length", 77)}
    if text.get("hf_tokenizer_name"):
        return text["hf_tokenizer_name"], context
    merges = sorted(folder.glob("*.txt.gz"))
    if merges:
        return "ViT-B-32", {**context, "bpe_path": str(merges[0])}
    return ("ViT-B-32" if text.get("vocab_size", 49408) == 49408 else None), context


def _builtin(arch: str, asked: str) -> dict[str, Any]:
    from open_clip import get_model_config, list_models

    if arch not in list_models():
        raise _unknown(asked, arch)
    return dict(get_model_config(arch))


def _unknown(name: str, arch: str | None = None) -> ConfigError:
    from open_clip import list_models
    from open_clip.pretrained import list_pretrained, list_pretrained_tags_by_model

    from tvr_cli.preset_loader import preset_names

    presets = sorted({*preset_names("backbones"), *toy.folders()})
    if name in list_models():
        tags = ", ".join(f"{name}/{t}" for t in list_pretrained_tags_by_model(name)[:4])
        return ConfigError(f"the backbone {name!r} needs a tag that says which weights: {tags or 'none are published'}")
    known = [*presets, *(f"{a}/{t}" for a, t in list_pretrained())] if arch is None or "/" in name else list_models()
    near = did_you_mean(name, known)
    return ConfigError(f"unknown backbone {name!r}{near or '; the presets are: ' + ', '.join(presets)}")


def known_architecture(model: Mapping[str, Any]) -> str:
    """Return open_clip's name for a configuration, else one made of its sizes; `-quickgelu` is always part of it."""
    from open_clip import get_model_config, list_models

    for name in list_models():
        if _sizes(get_model_config(name)) == _sizes(model):
            return str(name)
    vision, quick = model["vision_cfg"], "-quickgelu" if model.get("quick_gelu") else ""
    kind = vision.get("timm_model_name") or (
        "ResNet" if isinstance(vision.get("layers"), list | tuple) else f"ViT-{vision.get('patch_size', 16)}"
    )
    return f"custom-{kind}-{vision.get('image_size', 224)}-d{model['embed_dim']}{quick}"


def _sizes(model: Mapping[str, Any]) -> dict[str, Any]:
    """What distinguishes two configurations, with open_clip's defaults filled in."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    out: dict[str, Any] = {k: model.get(k) for k in ("embed_dim", "multimodal_cfg")}
    out["quick_gelu"] = bool(model.get("quick_gelu"))
    for part, schema in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        filled = dict(vars(schema(**model[part])))
        if isinstance(filled.get("layers"), list | tuple):
            filled["layers"], filled["patch_size"] = tuple(filled["layers"]), None
        out[part] = filled
    return out
