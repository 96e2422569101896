"""The backbone over transformers: one class for every recipe, features as its classes yield them, un-normalised."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvr_cli import files
from tvr_cli.backbones.base import Description, VideoOut, count_flops
from tvr_cli.backbones.hf import text_tower, weights
from tvr_cli.backbones.hf.chat import ChatTokenizer
from tvr_cli.backbones.hf.preprocessing import FILES as PICTURE_FILES
from tvr_cli.backbones.hf.recipes import CANONICAL, RECIPES, REFUSED
from tvr_cli.backbones.hf.source import CONFIG, Source, model_type_of, of_folder, resolve
from tvr_cli.backbones.hub import Wanted, no_network
from tvr_cli.backbones.pixels import encode_each, normalize
from tvr_cli.backbones.tokenizer import HuggingFaceTokenizer, TokenizedBackbone, Tokenizer, pads
from tvr_cli.errors import DataError, EnvironmentProblem, advises_to_trust, reason
from tvr_cli.log import logger

# Frames of the clip whose cost is counted where any number will do.
_COUNTED = 8


class HfBackbone(TokenizedBackbone):
    """A model of transformers, with its source. Use `registry.load`."""

    library: ClassVar[str] = "transformers"
    folder_mark: ClassVar[str] = CONFIG

    def __init__(self, model: nn.Module, about: Description, tokenizer: Tokenizer | None):
        super().__init__(about, tokenizer)
        self.model = model
        self.source: Source = about.detail
        self.recipe = self.source.recipe
        self._identity: dict[str, Any] | None = None

    # ------------------------------------------------------------------------------------- before the weights are there

    @classmethod
    def holds(cls, folder: Path) -> bool:
        """Only what has a recipe, or a refusal: beside another library's model, it is a text model's configuration."""
        kind = model_type_of(folder)
        return kind in RECIPES or kind in REFUSED

    @classmethod
    def describe(cls, name: str) -> Description:
        found = resolve(name)
        return _describe(found, found.in_full(name))

    @classmethod
    def identify(cls, about: Description, *, temporal_shift: bool) -> dict[str, Any]:
        source: Source = about.detail
        return source.identity(about.preprocessing, temporal_shift=temporal_shift)

    @classmethod
    def remote_files(cls, about: Description) -> Sequence[Wanted]:
        source: Source = about.detail
        return source.remote_files

    @classmethod
    def skeleton(cls, about: Description) -> HfBackbone:
        source: Source = about.detail
        config, kind = source.whole_config, source.model_class
        with weights.quiet():
            try:
                with torch.device("meta"):
                    model = kind(config)
            except (RuntimeError, NotImplementedError):  # towers that compute with tensors while they are built
                model = kind(config)
        return cls(model, about, None)

    @classmethod
    def load(cls, about: Description, *, offline: bool) -> HfBackbone:
        source: Source = about.detail
        if source.place is not None and not offline:
            about = _fetched(about)
            source = about.detail
        source.files()
        if source.place is not None and not source.place.pinned:
            logger.info(
                "%s is not pinned: taking the commit %s; hf:%s@%s means the same weights for ever",
                source.place, source.place.commit, source.place.repository, source.place.commit,
            )  # fmt: skip
        config = source.whole_config
        with no_network():
            tokenizer = _tokenizer(source, config)
            model = weights.fill(source.model_class, config, source.weights, shown=f"a {source.recipe.architecture}")
        return cls(model, about, tokenizer)

    # -------------------------------------------------------------------------------------------- loaded, or a skeleton

    def cost(self, words: int) -> tuple[int, int]:
        frames, size = self.about.frames or _COUNTED, self.image_size
        if self.recipe.chat is not None:
            return self.recipe.chat.cost(self.model, size, words)
        pixels = torch.zeros(frames, 3, size, size, device=self.device)
        images, clips = self.recipe.images, self.recipe.clips
        if images is not None:
            a_frame = count_flops(lambda: images(self.model, pixels[:1]))
        else:
            assert clips is not None
            a_frame = count_flops(lambda: clips(self.model, pixels[None])) // frames
        # A text tower looks at values (masks, end tokens), which a skeleton has none of: its products with matrices.
        slots = self.context_length if self.recipe.pads == "full" else words
        tower: Any = self.model
        products = [m.weight.numel() for m in tower.text_model.modules() if isinstance(m, nn.Linear)]
        return a_frame, 2 * slots * sum(products)

    # ----------------------------------------------------------------------------------------------------------- loaded

    def identity(self) -> dict[str, Any]:
        if self._identity is None:  # hashes files: once
            self._identity = self.identify(self.about, temporal_shift=self.shifts_patches)
        return copy.deepcopy(self._identity)

    def save(self, folder: Path) -> None:
        """Write weights (fp32), tokenizer, picture and configuration; this last, so a folder that has one is whole."""
        from safetensors.torch import save

        source = self.source.files()
        tensors = {k: v.detach().float().cpu().contiguous().clone() for k, v in self.model.state_dict().items()}
        files.write_bytes(folder / weights.WRITTEN, save(tensors, metadata={"format": "pt"}))
        beside = [*self.source.tokenizer_files, *(source / name for name in PICTURE_FILES), source / CONFIG]
        for file in beside:
            if file.is_file():
                files.write_bytes(folder / file.name, file.read_bytes())

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        length, rule = ids.shape[1], self.recipe.pads
        if length > self.context_length:
            raise ValueError(f"expected at most {self.context_length} token slots, got {length}")
        if self.recipe.chat is not None:
            return self.recipe.chat.text(self.model, ids, self._need_chat_tokenizer()), None
        assert self.recipe.text is not None
        if rule == "zero":
            return self.recipe.text(self.model, ids, None)
        behind = pads(ids)
        own = ids.masked_fill(behind, self._need_tokenizer().pad_id)
        if rule == "full":
            own = F.pad(own, (0, self.context_length - length), value=self._need_tokenizer().pad_id)
        pooled, tokens = self.recipe.text(self.model, own, (~behind).long() if rule == "masked" else None)
        return pooled, None if tokens is None else tokens[:, :length]

    def encode_frames(self, pixels: Tensor, real: Tensor) -> Tensor:
        images = self.recipe.images
        if images is None:
            frames = self.encode_video(pixels, real).frames
            if frames is None:
                raise ValueError(f"the backbone {self.name!r} has no vector of a frame; see encode_video")
            return frames
        self.check_frames(pixels)
        return encode_each(lambda flat, there: images(self.model, self._normalized(flat, there)), pixels, real)

    def encode_video(self, pixels: Tensor, real: Tensor, times: Tensor | None = None) -> VideoOut:
        chat, clips = self.recipe.chat, self.recipe.clips
        if chat is None and clips is None:
            return super().encode_video(pixels, real)
        self.check_frames(pixels)
        whole = self._normalized(pixels.flatten(0, 1), None).unflatten(0, pixels.shape[:2])
        if clips is not None:
            return clips(self.model, whole)
        assert chat is not None
        if times is None or times.shape != pixels.shape[:2]:
            found = "none" if times is None else str(list(times.shape))
            raise ValueError(f"expected times {list(pixels.shape[:2])}, in seconds of the clip, got {found}")
        return VideoOut(None, chat.clips(self.model, whole, times, self._need_chat_tokenizer()))

    def text_tower(self) -> Mapping[str, Tensor]:
        return text_tower.under_openai_names(self.model)

    @property
    def logit_scale(self) -> Tensor:
        scale: Any = getattr(self.model, "logit_scale", None)
        return super().logit_scale if scale is None else scale.reshape(())

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        model: Any = self.model
        if not model.supports_gradient_checkpointing:
            super().set_grad_checkpointing(enable)
        if enable:
            model.gradient_checkpointing_enable()
        else:
            model.gradient_checkpointing_disable()

    # ------------------------------------------------------------------------------------------------------- private

    def _need_chat_tokenizer(self) -> ChatTokenizer:
        tokenizer = self._need_tokenizer()
        assert isinstance(tokenizer, ChatTokenizer)
        return tokenizer

    def _normalized(self, images: Tensor, real: Tensor | None) -> Tensor:
        """Bring uint8 images [N, 3, S, S] to what the towers take; where `real` is False, to exactly zero."""
        return normalize(images, real, self.source.pixels.mean, self.source.pixels.std, self.dtype)


def _describe(source: Source, name: str) -> Description:
    recipe, config, licence = source.recipe, source.config, source.licence
    try:
        dim, context, frames = recipe.dim(config), recipe.context(config), recipe.frames(config)
    except (TypeError, ValueError, AttributeError) as e:
        raise DataError(f"the configuration of {name!r} is not one of a {source.model_type}: {reason(e)}") from e
    return Description(
        name=name,
        kind=HfBackbone,
        dim=dim,
        image_size=source.pixels.size,
        context_length=context,
        provides=recipe.provides,
        source=source.published_as,
        weights=source.weights[0] if source.weights else None,
        expected_at=source.place.expected_at if source.place is not None else "",
        licence=licence.name,
        non_commercial=licence.non_commercial,
        fit=source.pixels.fit,
        filter=source.pixels.filter,
        frames=frames,
        timed=recipe.chat is not None,
        revision=source.place.revision if source.place is not None and source.place.pinned else None,
        commit=source.place.commit if source.place is not None and source.folder is not None else None,
        detail=source,
    )


def _fetched(about: Description) -> Description:
    """Download what is not here of a backbone, and describe it from its own files.

    Raises DataError where those want other pictures or clips than was known before: frames may have been made for it.
    """
    source: Source = about.detail
    source.fetch()
    assert source.place is not None
    if (folder := source.place.folder) is None:
        raise source.place.missing("though it was downloaded")
    found = _describe(replace(of_folder(folder), name=source.name, place=source.place), about.name)
    if (found.view, found.frames, found.dim) != (about.view, about.frames, about.dim):
        raise DataError(
            f"the files of {source.place} say {found.view} and {found.frames or 'any number of'} frames, and tvr took "
            f"it for {about.view} and {about.frames or 'any number of'}; run the command again: it knows now"
        )
    return found


def _tokenizer(source: Source, config: Any) -> Tokenizer:
    """Return the tokenizer that lies beside the weights, with its authors' way to write captions.

    Raises EnvironmentProblem where there is none, DataError for one that cannot be read or is another model's.
    """
    import transformers

    if not source.tokenizer_files:
        raise EnvironmentProblem(
            f"there is no tokenizer in {str(source.folder)!r}: put its files (tokenizer.json, tokenizer_config.json) "
            "beside the weights"
        )
    try:
        with weights.quiet():
            fast = transformers.AutoTokenizer.from_pretrained(
                str(source.folder), local_files_only=True, trust_remote_code=False
            )
    except ImportError as e:
        raise EnvironmentProblem(
            f"the tokenizer of {source.name!r} needs the package {e.name!r}: pip install {e.name}"
        ) from e
    except Exception as e:  # the tokenizers library raises a plain Exception for a file that it cannot read
        if advises_to_trust(e):
            raise DataError(
                f"the tokenizer in {str(source.folder)!r} brings code of its own, and tvr runs none that comes with a "
                "model; choose another backbone"
            ) from e
        raise DataError(f"the tokenizer in {str(source.folder)!r} cannot be read: {reason(e)}") from e
    clean = CANONICAL[source.recipe.canonical]
    if source.recipe.chat is not None:
        chat = ChatTokenizer(fast, clean)
        if why := chat.misses(config):
            raise DataError(
                f"the tokenizer in {str(source.folder)!r} {why}; put the files of the model's own beside the weights"
            )
    tokenizer = HuggingFaceTokenizer(fast, clean) if source.recipe.chat is None else chat
    text = config.text_config
    # 2 is what old configurations say, whatever the token: such towers look for the largest id.
    end = text.eos_token_id if source.recipe.reads_at_end and text.eos_token_id != 2 else None
    if why := tokenizer.misfit(text.vocab_size, end):
        raise DataError(
            f"the backbone {source.name!r} has a vocabulary of {text.vocab_size} tokens, but its tokenizer {why}"
        )
    return tokenizer
