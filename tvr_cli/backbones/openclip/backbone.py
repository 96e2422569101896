"""The backbone over open_clip, which normalises nothing by itself and returns one vector a caption."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

import tvr_cli.backbones.openclip.export as export
import tvr_cli.backbones.openclip.weights as weights_module
from tvr_cli.backbones.base import Description, count_flops
from tvr_cli.backbones.hub import Wanted, commit_of, no_network
from tvr_cli.backbones.openclip import hugging_face_names
from tvr_cli.backbones.openclip.licences import licence_of
from tvr_cli.backbones.openclip.pixels import PixelConv
from tvr_cli.backbones.openclip.source import CONFIG, Source, known_architecture, resolve
from tvr_cli.backbones.openclip.temporal_shift import TemporalShift, shiftable_blocks
from tvr_cli.backbones.openclip.text import TextSide
from tvr_cli.backbones.openclip.tokenizer import BytePairTokenizer
from tvr_cli.backbones.openclip.undrawn import without_draws
from tvr_cli.backbones.pixels import encode_each, normalize
from tvr_cli.backbones.published import Licence
from tvr_cli.backbones.tensor_files import read_state
from tvr_cli.backbones.text_tower.card import TextCard
from tvr_cli.backbones.text_tower.tower import Configuration
from tvr_cli.backbones.tokenizer import TokenizedBackbone, Tokenizer
from tvr_cli.backbones.toy import is_toy
from tvr_cli.errors import DataError, EnvironmentProblem, TvrError, advises_to_trust, reason

# What a tower without torch is compared on: short and long words, other scripts, nothing, more than fits.
_PROBES = ("a dog surfing on a small wave", "Ünïcode, C++ & 朝の運用", "", "word " * 90)
_PROBE_SLOTS = 32


class OpenClipBackbone(TokenizedBackbone):
    """A model that open_clip built, with its source. Use `registry.load` or `from_state_dict`."""

    library: ClassVar[str] = "open_clip"
    folder_mark: ClassVar[str] = CONFIG

    def __init__(self, model: nn.Module, source: Source, tokenizer: Tokenizer | None, *, temporal_shift: bool = False):
        super().__init__(_describe(source), tokenizer)
        self.model = model
        self.source = source
        self._text = TextSide(
            model,
            tokenizer.pad_id if tokenizer else 0,
            last_id=tokenizer.last_id if tokenizer else None,
            context=source.context_length,
        )
        visual: Any = model.visual
        self.context_length = self._text.context_length
        provides = {"frames", "pooled"}
        provides |= {"tokens"} if self._text.has_tokens else set()
        provides |= {"temporal_shift"} if shiftable_blocks(visual) is not None else set()
        provides |= {"video.patches"} if _projects_patches(visual) else set()
        self.provides = frozenset(provides)
        self._shift: TemporalShift | None = None
        self._identity: dict[str, Any] | None = None
        self._conv: PixelConv | None = None
        if temporal_shift:
            self.shift_patches()
        if isinstance(getattr(visual, "conv1", None), nn.Conv2d):
            visual.conv1 = self._conv = PixelConv(visual.conv1, source.mean, source.std)
        vocabulary = self._text.vocab_size
        if tokenizer is not None and vocabulary and (why := tokenizer.misfit(vocabulary, self._text.end_id)):
            raise DataError(
                f"the backbone {source.name!r} has a vocabulary of {vocabulary} tokens, but its tokenizer {why}"
            )

    # ------------------------------------------------------------------------------------- before the weights are there

    @classmethod
    def describe(cls, name: str) -> Description:
        return _describe(resolve(name))

    @classmethod
    def identify(cls, about: Description, *, temporal_shift: bool) -> dict[str, Any]:
        source: Source = about.detail
        return source.identity(about.preprocessing, temporal_shift=temporal_shift)

    @classmethod
    def remote_files(cls, about: Description) -> Sequence[Wanted]:
        source: Source = about.detail
        return source.remote_files

    @classmethod
    def skeleton(cls, about: Description) -> OpenClipBackbone:
        source: Source = about.detail
        with no_network():
            try:
                with torch.device("meta"):
                    model = build(source.buildable)
            except (RuntimeError, NotImplementedError):  # towers that compute with tensors while they are built
                model = build(source.buildable)
        return cls(model, source, None)

    @classmethod
    def load(cls, about: Description, *, offline: bool) -> OpenClipBackbone:
        source: Source = replace(about.detail, name=about.name).fetched(offline=offline)
        tokenizer = source.tokenizer(offline=offline)
        with no_network(), without_draws():
            model = build(source.buildable)
        _fill(model, source)
        return cls(model, replace(source, state=None), tokenizer)

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], *, name: str, temporal_shift: bool = False
    ) -> OpenClipBackbone:
        """Build from CLIP weights of any size under OpenAI's names; sizes are inferred, the activation is QuickGELU.

        Hugging Face's names are turned into those; the prefix `clip.` and EagleNet's `attn.net.` are taken off. fp32,
        evaluation mode. The tokenizer is CLIP's where the vocabulary has its size, else there is none. Raises DataError
        when the names are neither.
        """
        state = {k.removeprefix("clip.").replace(".attn.net.", ".attn."): v for k, v in state.items()}
        if hugging_face_names.is_hugging_face(state):
            state = hugging_face_names.openai_names(state)
        config = weights_module.openai_config(state)
        vocabulary = "ViT-B-32" if config["text_cfg"]["vocab_size"] == 49408 else None
        source = Source(name, known_architecture(config), config, None, tokenizer_name=vocabulary, state=state)
        model = build(config)
        _fill_exact(model, state, name)
        return cls(model, source, source.tokenizer(offline=True), temporal_shift=temporal_shift).eval()

    @classmethod
    def cannot_save(cls, about: Description) -> str:
        source: Source = about.detail
        return export.cannot_write(source)

    @classmethod
    def versions(cls) -> dict[str, str]:
        import open_clip

        return {cls.library: open_clip.__version__}

    # -------------------------------------------------------------------------------------------- loaded, or a skeleton

    def cost(self, words: int) -> tuple[int, int]:
        visual: Any = self.model.visual
        pixels = torch.zeros(1, 3, self.image_size, self.image_size, device=self.device)
        return count_flops(lambda: visual(pixels)), self._text.cost(words, self.device)

    def shift_patches(self) -> None:
        visual: Any = self.model.visual
        self._shift, self.shifts_patches = TemporalShift(visual), True

    def merge_for_inference(self) -> None:
        from timm.utils import reparameterize_model

        visual: Any = self.model.visual
        if self.dtype == torch.float32:  # merged in less, sums of weights would lose what they add up to
            self.model.visual = reparameterize_model(visual, inplace=True)

    # ----------------------------------------------------------------------------------------------------------- loaded

    def identity(self) -> dict[str, Any]:
        if self._identity is None:  # hashes a file: once
            self._identity = self.source.identity(self.about.preprocessing, temporal_shift=self.shifts_patches)
        return copy.deepcopy(self._identity)

    def text_card(self) -> TextCard | None:
        own = self._tokenizer
        merges = own.merges(self.source.tokenizer_options) if isinstance(own, BytePairTokenizer) else None
        configuration = Configuration.of(self.source.model)
        weights = self.source.weights
        if merges is None or configuration is None or weights is None or weights.suffix != ".safetensors":
            return None
        folder = weights.parent / CONFIG
        sources = (weights.parent, folder) if folder.is_file() else ()
        card = TextCard(self.identity(), weights, merges, configuration, sources)
        return card if self._agrees(card) else None

    def save(self, folder: Path) -> None:
        export.write(self.model, self.source, folder)

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        return self._text.encode(ids)

    def encode_frames(self, pixels: Tensor, real: Tensor) -> Tensor:
        self.check_frames(pixels)
        if self._shift is not None:
            return self._run(pixels.flatten(0, 1), real.flatten(), pixels.shape[1]).unflatten(0, pixels.shape[:2])
        return encode_each(lambda images, there: self._run(images, there, 1), pixels, real)

    def encode_patches(self, pixels: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """A ViT's tokens behind its last LayerNorm and its projection, the class token (the frame) apart."""
        self.check_frames(pixels)
        visual: Any = self.model.visual
        visual.output_tokens = True
        try:
            frames, tokens = self._forward(pixels.flatten(0, 1), real.flatten(), pixels.shape[1])
        finally:
            visual.output_tokens = False
        patches = tokens @ visual.proj
        return frames.unflatten(0, pixels.shape[:2]), patches.unflatten(0, pixels.shape[:2])

    def encode_normalized(self, pixels: Tensor) -> Tensor:
        """Encode frames that are normalised already, float [V, F, 3, S, S], to [V, F, D]."""
        self.check_frames(pixels, None)
        return self._run(pixels.flatten(0, 1), None, pixels.shape[1]).unflatten(0, pixels.shape[:2])

    def text_tower(self) -> Mapping[str, Tensor]:
        return self._text.tensors()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        model: Any = self.model
        model.set_grad_checkpointing(enable)

    def to_half(self) -> None:
        from open_clip.model import convert_weights_to_lp

        convert_weights_to_lp(self, torch.float16)

    @property
    def logit_scale(self) -> Tensor:
        scale: Any = self.model.logit_scale
        return scale.reshape(())

    def train(self, mode: bool = True) -> OpenClipBackbone:
        """Switch the mode; batch normalisation keeps its stored statistics, so a frame never depends on its batch."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    # ------------------------------------------------------------------------------------------------------- private

    def _run(self, images: Tensor, real: Tensor | None, frames: int) -> Tensor:
        """Encode images [N, 3, S, S] (uint8, or normalised already) to [N, D]; frames: F, for the temporal shift.

        real: [N], where it is False the image is the all-zero normalised one; None = all of them.
        """
        out = self._forward(images, real, frames)
        return out[0] if isinstance(out, tuple) else out

    def _forward(self, images: Tensor, real: Tensor | None, frames: int) -> Any:
        """Return what the tower returns for images of `_run`."""
        visual: Any = self.model.visual
        if self._shift is not None:
            self._shift.frames = frames
        marked = contextlib.nullcontext()
        if images.dtype != torch.uint8:
            images = images.to(self.dtype)
        elif self._conv is None:
            images = normalize(images, real, self.source.mean, self.source.std, self.dtype)
        else:
            marked = self._conv.missing(None if real is None else ~real)  # type: ignore[assignment]
        with marked:
            return visual(images)

    @torch.no_grad()
    def _agrees(self, card: TextCard) -> bool:
        """Whether a card's tower encodes a few sentences as this one does, to 1e-5 of their length."""
        try:
            tokenizer, tower = card.open()
        except DataError:
            return False
        ids, n = tokenizer.encode(_PROBES, min(_PROBE_SLOTS, self.context_length))
        own_ids, own_n = self.tokenize(_PROBES, ids.shape[1])
        if not (np.array_equal(ids, own_ids.numpy()) and np.array_equal(n, own_n.numpy())):
            return False
        pooled, tokens = self.encode_text(own_ids.to(self.device))
        found = tower.encode(ids)
        if tokens is None or self.dtype != torch.float32:
            return False
        return all(
            float((torch.from_numpy(a) - b.cpu()).abs().max()) <= 1e-5 * float(b.norm(dim=-1).max())
            for a, b in zip(found, (pooled, tokens), strict=True)
        )

    def _no_tokenizer(self) -> str:
        return (
            f"the backbone {self.name!r} has no tokenizer for its vocabulary of {self._text.vocab_size} tokens; "
            "put its list of BPE merges (*.txt.gz) into the folder of its weights and say --backbone local:FOLDER"
        )


def _projects_patches(visual: Any) -> bool:
    """Whether a tower is a ViT whose class token alone is pooled, behind its last LayerNorm and before a projection."""
    from open_clip.transformer import VisionTransformer

    if not isinstance(visual, VisionTransformer) or visual.final_ln_after_pool or visual.proj is None:
        return False
    return visual.pool_type == "tok" and visual.attn_pool is None


def _describe(source: Source) -> Description:
    licence = licence_of(source.architecture) if source.origin or is_toy(source.name) else Licence()
    return Description(
        name=source.name,
        kind=OpenClipBackbone,
        dim=source.dim,
        image_size=source.image_size,
        context_length=source.context_length,
        provides=source.provides,
        source=source.published_as,
        weights=source.weights,
        expected_at=source.expected_at,
        fit=source.pixels.fit,
        filter=source.pixels.filter,
        patches=source.patches if "video.patches" in source.provides else 0,
        commit=commit_of(source.weights),
        licence=licence.name,
        non_commercial=licence.non_commercial,
        detail=source,
    )


def build(config: Mapping[str, Any]) -> nn.Module:
    """Build the model of open_clip's configuration with random weights, as `open_clip.create_model` would."""
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    options = copy.deepcopy(dict(config))
    custom = options.pop("custom_text", False) or "hf_model_name" in options["text_cfg"]
    if "timm_model_name" in options["vision_cfg"]:
        options["vision_cfg"]["timm_model_pretrained"] = False
    if "hf_model_name" in options["text_cfg"]:
        options["text_cfg"]["hf_model_pretrained"] = False
    kind = CLIP if not custom else CoCa if "multimodal_cfg" in options else CustomTextCLIP
    with (
        _text_model_of_hugging_face(options["text_cfg"].get("hf_model_name")),
        weights_module.no_remote_code(config),
        torch.random.fork_rng(devices=[]),
    ):  # the random weights are replaced: leave the caller's generator alone
        return kind(**options)


@contextlib.contextmanager
def _text_model_of_hugging_face(name: str | None) -> Iterator[None]:
    """Say in words why a text model of Hugging Face's cannot be built in the block. name: None where there is none."""
    if name is not None and importlib.util.find_spec("transformers") is None:
        raise EnvironmentProblem(f"the text model {name!r} needs the package 'transformers': pip install transformers")
    try:
        yield
    except OSError as e:  # its configuration, which is looked for on the hub
        raise EnvironmentProblem(
            f"the configuration of the text model {name!r} is not on this machine and was not downloaded: {reason(e)}. "
            "Put its config.json beside the weights and name those with --backbone"
        ) from e


def _fill(model: nn.Module, source: Source) -> None:
    """Put a weights file into a model. Raises DataError, naming the file, when the two do not fit."""
    from open_clip.convert import load_big_vision_weights

    file: Any = source.weights
    if source.state is not None:
        return _fill_exact(model, source.state, str(file))
    try:
        if file.suffix in (".npz", ".npy"):  # big_vision's (SigLIP): NumPy reads them without unpickling
            load_big_vision_weights(model, str(file))
        else:
            _fill_published(model, read_state(file))
    except TvrError:
        raise
    except Exception as e:
        raise DataError(_misfit(str(file), source.architecture, e)) from e
    return None


def _fill_published(model: Any, state: dict[str, Tensor]) -> None:
    """Load a state dict as `open_clip.factory.load_checkpoint` does, whose reading of a file is not as strict as ours.

    That is: other projects' names, old names of the text tower, the shapes of the scalars, and positions of another
    resolution.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed

    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):
        if name in state and (own := getattr(model, name)).ndim != state[name].ndim:
            state[name] = state[name].reshape(own.shape)
    if "logit_bias" not in state and model.logit_bias is not None:
        state["logit_bias"] = torch.zeros_like(state["logit_scale"])
    ids = "text.transformer.embeddings.position_ids"  # what older versions of transformers kept
    if not hasattr(model, ids):
        state.pop(ids, None)
    resize_pos_embed(state, model)
    resize_text_pos_embed(state, model)
    model.load_state_dict(state)


def _fill_exact(model: nn.Module, state: Mapping[str, Tensor], shown: str) -> None:
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as e:
        raise DataError(_misfit(shown, "CLIP", e)) from e


def _misfit(file: str, architecture: str, e: Exception) -> str:
    said = reason(e) if advises_to_trust(e) else " ".join(str(e).split())[:300]
    return f"the weights {file!r} do not fit the architecture {architecture}: {said}"
