"""The inputs on which every Triton kernel is checked, and its launches at the shape of the presets.

Run as a script (with TRITON_INTERPRET=1, or on a GPU) it prints the errors against the reference, one JSON object a
line: `test_triton_parity.py` runs it in a fresh process, because Triton decides at import whether it interprets.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

import torch
from tvr_kernels._testing import Shape, features, max_error, poisoned, random_weights

# Odd sizes: captions and clips over several tiles, padded clips, D no multiple of a block, one of everything.
SHAPES = (Shape(70, 9, 12, 6, 33), Shape(3, 5, 7, 3, 20), Shape(1, 1, 1, 1, 16), Shape(5, 3, 20, 4, 40))
PRESETS = (Shape(64, 64, 12, 32, 512), Shape(64, 64, 64, 64, 512))  # MSR-VTT; DiDeMo and ActivityNet


def shapes(op: str) -> tuple[Shape, ...]:
    """Return the shapes that an op is checked at: few captions where a program owns one, as the interpreter is slow."""
    first, *others = SHAPES
    if op == "eaglenet":  # four heads of 16 or more dimensions, a program a pair
        return Shape(2, 2, 12, 6, 64), Shape(1, 2, 20, 1, 64), Shape(1, 1, 1, 1, 64)
    return (first._replace(T=3) if op in ("glccl", "tcmgc", "xclip") else first, *others)


def sides(op: str, shape: Shape, dtype: torch.dtype = torch.float32):
    """Return (text side, video side, weights) of an op with padded clips and, where it has them, padded captions."""
    x = features(shape, unit=op in ("text_pooling", "dmae", "wti"))
    text, frames = x.text.to(dtype), x.frames.to(dtype)
    module = importlib.import_module(f"tvr_kernels.{op}")
    if op == "text_pooling":
        weights = module.TextPoolingWeights(0.05)
        return module.text_side(text), module.video_side(frames, x.frame_mask), weights
    if op == "xpool":
        weights = random_weights(module.XPoolWeights, shape.D, dtype=dtype)
        return module.text_side(text, weights), module.video_side(frames, weights, x.frame_mask), weights
    if op == "gare":
        weights = random_weights(module.GareWeights, shape.D, dtype=dtype, temperature=3.0)
        return module.text_side(text, weights), module.video_side(frames, x.frame_mask, weights), weights
    if op == "dmae":
        options = module.DmaeOptions(words=True, neighbours=True)
        importance = x.word_mask.long() + (x.word_mask & (torch.arange(shape.L) % 3 == 1))
        logits = torch.linspace(-1, 1, shape.L).to(dtype).expand(shape.T, -1)
        words = module.text_side(text, x.words.to(dtype), importance, options, logits)
        return words, module.video_side(frames, x.frame_mask, options), options
    if op == "wti":
        options = module.options()
        logits = [torch.linspace(-1, 1, n).to(dtype).expand(m, -1) for m, n in ((shape.T, shape.L), (shape.V, shape.F))]
        words = module.text_side(x.words.to(dtype), x.word_mask, options, logits[0])
        return words, module.video_side(frames, x.frame_mask, options, logits[1]), options
    if op == "xclip":
        weights = importlib.import_module("tvr_kernels.xclip.bench").draw_weights(shape, dtype)
        words = module.text_side(text, x.words.to(dtype), weights, x.word_mask)
        return words, module.video_side(frames.sum(1), frames, x.frame_mask), weights
    if op == "glccl":
        g = torch.Generator().manual_seed(1)
        maps = [torch.eye(n) + 0.3 * n**-0.5 * torch.randn(n, n, generator=g) for n in 2 * [shape.D] + 6 * [shape.L]]
        weights = module.GlcclWeights(*(m.to(dtype) for m in maps))
        words = module.text_side(text, x.words.to(dtype), weights, x.word_mask)
        return words, module.video_side(frames, weights, x.frame_mask), weights
    if op == "tcmgc":
        weights = tcmgc_weights(module.TcmgcWeights, shape, dtype)
        words = module.text_side(text, x.words.to(dtype), weights, x.word_mask)
        return words, module.video_side(frames, weights, x.frame_mask), weights
    if op == "eaglenet":
        weights = importlib.import_module("tvr_kernels.eaglenet.bench").draw_weights(shape, "cpu", dtype)
        text_key, video_key = torch.arange(shape.T) * 2**61 - 5, 3 * 2**60 - 2**40 * torch.arange(shape.V)
        video = module.video_side(frames, x.frame_mask, video_key, weights)
        return module.text_side(text, text_key, weights), video, weights
    raise KeyError(op)


def tcmgc_weights(cls: type, shape: Shape, dtype: torch.dtype):
    """Return weights with three ranks, fewer where captions are shorter."""
    g, k = torch.Generator().manual_seed(1), min(3, shape.L - 1)

    def near_identity(n: int) -> torch.Tensor:
        return (torch.eye(n) + 0.3 * max(n, 1) ** -0.5 * torch.randn(n, n, generator=g)).to(dtype)

    ranks = {"video_word": k, "sentence_frame": k + 1, "fusion": 4}
    ranks |= dict.fromkeys(("over_words", "over_frames", "then_frames", "then_words"), k)
    matrices = {name: near_identity(n) for name, n in ranks.items()}
    maps = {"global_map": near_identity(shape.D), "local_map": near_identity(shape.D)}
    scale = torch.tensor(20.0, dtype=dtype)
    return random_weights(cls, shape.D, dtype=dtype, scale=scale, sharpness=20.0, heads=1, **matrices, **maps)


def launches(ops: list[str], capability: int):
    """Yield (op, shape, dtype, launch) for a compute capability at the shapes of the presets that an op supports."""
    for op in ops:
        module = importlib.import_module(f"tvr_kernels.{op}.triton_impl")
        for shape in PRESETS:
            if getattr(module, "MAX_FRAMES", shape.F) < shape.F:
                continue  # its `supports` refuses this
            text, video, weights = sides(op, shape)
            out = torch.empty(shape.T, shape.V)
            for dtype in (torch.float32, torch.bfloat16):
                if hasattr(module, "most_slots") and module.most_slots(dtype, capability) < max(shape.F, shape.L):
                    continue  # and this
                cast = [
                    {k: v.to(dtype) if k in module.VECTORS else v for k, v in side.items()} for side in (text, video)
                ]
                launch = module.launch(*cast, weights, out, capability)
                yield op, str(shape), str(dtype).removeprefix("torch."), launch


def low_precision(side: dict, names: tuple[str, ...], dtype: torch.dtype) -> dict:
    """Cast the floating tensors of these names: those that the products read, or all of them."""
    return {k: v.to(dtype) if k in names and v.is_floating_point() else v for k, v in side.items()}


def errors(op: str, shape: Shape, device: str) -> dict:
    """Return the largest error of the kernel, and of the folded form, against the reference in fp64."""
    package = importlib.import_module(f"tvr_kernels.{op}")
    exact = exact_scores(op, shape, device)
    text, video, weights = on(device, *sides(op, shape))
    with torch.no_grad():
        found = [package.score(text, video, weights, implementation=name).cpu() for name in ("triton", "folded")]
    error, folded_error = (max_error(scores, exact) for scores in found)
    return {"check": "score", "op": op, "shape": str(shape), "error": error, "folded_error": folded_error}


def low_precision_errors(op: str, shape: Shape, device: str) -> dict:
    """Return the error of the kernel on bf16 vectors, and of the folded form in plain bf16."""
    package, module = (importlib.import_module(f"tvr_kernels.{op}{end}") for end in ("", ".triton_impl"))
    exact = exact_scores(op, shape, device)
    text, video, weights = on(device, *sides(op, shape))
    low = [low_precision(side, module.VECTORS, torch.bfloat16) for side in (text, video)]
    plain = [low_precision(side, tuple(side), torch.bfloat16) for side in (text, video)]
    with torch.no_grad():
        error = max_error(package.score(*low, weights, implementation="triton").cpu(), exact)
        plain_scores = package.score(*plain, move(weights, device, torch.bfloat16), implementation="folded")
    plain_error = max_error(plain_scores.cpu(), exact)
    return {"check": "bfloat16", "op": op, "shape": str(shape), "error": error, "plain_error": plain_error}


def gradient_error(op: str, shape: Shape, device: str) -> dict:
    """Return the largest difference of a gradient through the kernel and through the folded form."""
    package = importlib.import_module(f"tvr_kernels.{op}")
    found = []
    for name in ("triton", "folded"):
        text, video, weights = on(device, *sides(op, shape))
        leaves = [x.requires_grad_() for x in (*text.values(), *video.values()) if x.is_floating_point()]
        package.score(text, video, weights, implementation=name).square().sum().backward()
        found.append([x.grad for x in leaves if x.grad is not None])
    pairs = list(zip(*found, strict=True))
    error, largest = max(max_error(a, b) for a, b in pairs), max(float(a.abs().max()) for a, _ in pairs)
    return {"check": "gradient", "op": op, "shape": str(shape), "error": error, "largest": largest}


def exact_scores(op: str, shape: Shape, device: str) -> torch.Tensor:
    """Return the reference in fp64, on the device that is at hand: a CPU takes minutes for the presets' shapes."""
    reference = importlib.import_module(f"tvr_kernels.{op}.reference")
    with torch.no_grad():
        return reference.score(*on(device, *sides(op, shape, torch.float64))).cpu()


def on(device: str, text: dict, video: dict, weights):
    """Move a case to a device, its floating tensors between NaNs."""
    text, video = ({k: place(v.detach(), device) for k, v in side.items()} for side in (text, video))
    return text, video, move(weights, device)


def place(x: torch.Tensor, device: str) -> torch.Tensor:
    return poisoned(x.to(device)) if x.is_floating_point() else x.to(device)


def move(weights, device: str, dtype: torch.dtype | None = None):
    if isinstance(weights, torch.Tensor):
        return weights.to(device, dtype if weights.is_floating_point() else None)
    if isinstance(weights, tuple):
        parts = (move(w, device, dtype) for w in weights)
        return type(weights)._make(parts) if hasattr(weights, "_make") else tuple(parts)
    return weights


if __name__ == "__main__":
    device = "cuda" if torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1" else "cpu"
    for op in sys.argv[1:]:
        results = [errors(op, shape, device) for shape in shapes(op)]
        if op in ("text_pooling", "xpool", "gare"):
            results.append(gradient_error(op, SHAPES[1], device))
        if device == "cuda":
            results.append(low_precision_errors(op, PRESETS[0], device))
        for result in results:
            print(json.dumps(result), flush=True)
