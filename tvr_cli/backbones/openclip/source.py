"""From a backbone's name to what is needed to build it: configuration, weights file, pixel statistics, tokenizer.

Resolving loads no weights (a single weights file is read to infer its sizes) and never touches the network, so that a
dry run can say what a backbone would cost before it is there.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

import tvr_cli.backbones.openclip.weights as weights_module
from tvr_cli import user_cache
from tvr_cli.backbones.openclip.temporal_shift import can_shift
from tvr_cli.backbones.openclip.tokenizer import Tokenizer
from tvr_cli.backbones.tensor_files import read_state
from tvr_cli.errors import ConfigError, DataError, EnvironmentProblem, advises_to_trust, did_you_mean, reason
from tvr_cli.log import logger

DEMO_TINY = "demo-tiny"
CONFIG = "open_clip_config.json"
_DEMO_FOLDER = Path(__file__).resolve().parents[1] / "demo_tiny"
# OpenAI's pixel statistics, open_clip's default where a configuration names none.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Source:
    """Everything about a backbone but its tensors.

    name: what `load` takes again. architecture: the name in a store's identity, incl. `-quickgelu`. weights: the file,
    None where it is not on this machine. state: tensors that had to be read to infer `model`.
    """

    name: str
    architecture: str
    model: Mapping[str, Any]
    weights: Path | None
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    tokenizer_name: str | None = None
    tokenizer_options: Mapping[str, Any] = field(default_factory=dict)
    origin: weights_module.Origin | None = None
    state: Mapping[str, Tensor] | None = None

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
        blocks, patches = vision.get("layers", 12), self.image_size // int(vision.get("patch_size") or 16)
        shifts = not vision.get("timm_model_name") and can_shift(blocks, patches**2 + 1)
        extra = {"tokens": not hides_tokens, "temporal_shift": shifts}
        return frozenset({"frames", "pooled", *(name for name, has in extra.items() if has)})

    @property
    def published_as(self) -> str:
        """What the weights are called where they come from: `ARCH/TAG`, or a file."""
        if self.origin is not None:
            return self.architecture
        if self.name == DEMO_TINY:
            return "shipped with tvr"
        return "a checkpoint in memory" if self.weights is None else str(self.weights)

    @property
    def expected_at(self) -> str:
        """Say where weights that are not on this machine would be found, for people."""
        if self.origin is None:
            return ""
        return f"{self.origin.places()}, or a copy anywhere that is named by --backbone {self.origin.arch}@FILE"

    def weights_file(self, *, offline: bool) -> Path:
        """Return the weights file, downloading it unless `offline`. Raises EnvironmentProblem when it cannot be had."""
        if self.weights is not None:
            return self.weights
        if self.origin is None:
            raise EnvironmentProblem(f"no weights for the backbone {self.name!r}")
        if offline:
            raise self.origin.missing("and --offline forbids to download them")
        return self.origin.download()

    def identity(self, *, temporal_shift: bool) -> dict[str, Any]:
        """Return what decides the values of the backbone's features; see `Backbone.identity`."""
        if self.weights is not None:
            sha256 = user_cache.sha256_of(self.weights)
        else:
            sha256 = weights_module.state_sha256(self.state or {})
        preprocessing = {"size": self.image_size, "mean": list(self.mean), "std": list(self.std)}
        return {
            "name": self.architecture,
            "weights": sha256,
            "preprocessing": preprocessing,
            "temporal_shift": temporal_shift,
        }

    def tokenizer(self, *, offline: bool) -> Tokenizer | None:
        """Return the tokenizer, None for an unknown vocabulary. Raises EnvironmentProblem when it is not there."""
        if self.tokenizer_name is None:
            return None
        from open_clip import get_tokenizer

        options = dict(self.tokenizer_options)
        if self.model["text_cfg"].get("hf_tokenizer_name"):
            options["trust_remote_code"] = False  # whatever `tokenizer_kwargs` of a folder's configuration say
        with weights_module.no_network(offline), weights_module.no_remote_code(self.model):
            try:
                return Tokenizer(get_tokenizer(self.tokenizer_name, **options))
            except (ImportError, ModuleNotFoundError) as e:
                raise EnvironmentProblem(
                    f"the tokenizer of {self.name!r} needs the package {e.name!r}: "
                    "pip install transformers sentencepiece"
                ) from e
            except (OSError, ValueError) as e:
                if advises_to_trust(e):
                    raise  # to `no_remote_code`
                named = self.model["text_cfg"].get("hf_tokenizer_name", self.tokenizer_name)
                raise EnvironmentProblem(
                    f"the tokenizer {named!r} of {self.name!r} is not on this machine and was not downloaded"
                    f"{' (--offline)' if offline else ''}: {reason(e)}"
                ) from e


def resolve(name: str) -> Source:
    """Find out what `name` means: `demo-tiny`, `local:PATH`, `ARCH@FILE` or `ARCH/TAG`.

    Raises ConfigError for a name that means nothing (with the nearest one), DataError for a folder or file that is not
    a backbone, EnvironmentProblem for one that is not there.
    """
    if name == DEMO_TINY:
        return _demo_tiny()
    if name.startswith("local:"):
        return _local(Path(name.removeprefix("local:")).expanduser())
    if "@" in name:
        return _file_of(*name.split("@", 1))
    if "/" in name:
        return _tagged(*name.rsplit("/", 1))
    raise _unknown(name)


def _tagged(arch: str, tag: str) -> Source:
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    arch = arch.replace("/", "-")
    model = _builtin(arch, f"{arch}/{tag}")
    settings = get_pretrained_cfg(arch, tag)
    if not settings and arch.endswith("-quickgelu") and get_pretrained_cfg(arch.removesuffix("-quickgelu"), tag):
        raise ConfigError(
            f"the weights {tag!r} were not trained with QuickGELU; say {arch.removesuffix('-quickgelu')}/{tag}"
        )
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
        mean=tuple(settings.get("mean") or _MEAN),
        std=tuple(settings.get("std") or _STD),
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
    mean, std = _usual_statistics(arch)
    shown = f"{arch}@{path.resolve()}"
    return Source(shown, arch, model, path, mean=mean, std=std, tokenizer_name=arch)


def _usual_statistics(arch: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A weights file does not say how its pixels are normalised: take what all published weights of `arch` agree on."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    known = {
        (tuple(c["mean"]), tuple(c["std"]))
        for t in list_pretrained_tags_by_model(arch)
        if (c := get_pretrained_cfg(arch, t))
    }
    if len(known) > 1:
        raise ConfigError(
            f"weights of {arch} were published with different pixel statistics; put the file into a folder with an "
            "'open_clip_config.json' that has `preprocess_cfg: {mean, std}` and say --backbone local:FOLDER"
        )
    return next(iter(known), (_MEAN, _STD))


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


def _demo_tiny() -> Source:
    if not (_DEMO_FOLDER / CONFIG).is_file():
        raise EnvironmentProblem("the backbone 'demo-tiny' is not in this installation; reinstall tvr-cli")
    return _folder(_DEMO_FOLDER, DEMO_TINY)


def _folder(folder: Path, name: str) -> Source:
    """A folder of weights and a configuration as open_clip writes it: `model_cfg`, `preprocess_cfg`.

    A `*.txt.gz` beside it is the list of BPE merges (open_clip would look for it in the working directory).
    """
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        model = config.get("model_cfg", config)
        missing = {"embed_dim", "vision_cfg", "text_cfg"} - set(model)
    except FileNotFoundError:
        raise DataError(f"expected {CONFIG!r} in {str(folder)!r}, found none") from None
    except (ValueError, AttributeError, TypeError) as e:
        raise DataError(f"{str(file)!r} is not a model configuration of open_clip: {e}") from e
    if missing:
        raise DataError(f"{str(file)!r} lacks {', '.join(sorted(missing))}; expected open_clip's `model_cfg`")
    names = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "multimodal_cfg", "init_logit_bias")
    model = {k: copy.deepcopy(model[k]) for k in (*names, "init_logit_scale", "nonscalar_logit_scale") if k in model}
    pixels = config.get("preprocess_cfg", {})
    tokenizer, options = _folder_tokenizer(folder, model)
    return Source(
        name=name,
        architecture=DEMO_TINY if name == DEMO_TINY else known_architecture(model),
        model=model,
        weights=weights_module.folder_weights(folder),
        mean=tuple(pixels.get("mean") or _MEAN),
        std=tuple(pixels.get("std") or _STD),
        tokenizer_name=tokenizer,
        tokenizer_options=options,
    )


def _folder_tokenizer(folder: Path, model: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    text = model["text_cfg"]
    context = {"context_length": text.get("context_length", 77)}
    if text.get("hf_tokenizer_name"):
        return f"local-dir:{folder}", context
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

    presets = sorted({*preset_names("backbones"), DEMO_TINY})
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
