"""How long a frame takes to encode on a CPU, beside open_clip's own call and the matrix products in it alone.

    python scripts/bench_encoding.py
    python scripts/bench_encoding.py --others     with int8 and, where they are installed, ONNX Runtime and OpenVINO

One thread, random weights and pixels (values do not matter for the time), processor time, the best of --rounds in
turns. `floor` makes the tower's products alone, on tensors that are there, each by the faster of torch's own BLAS and
oneDNN; a percentage is floor / time. The error is 1 - cosine with open_clip's vectors, the largest of all frames. The
runtimes are no part of tvr: they take the export of open_clip's tower (which needs `onnx` and `onnxscript`).
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import io
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tvr_kernels import gemm

from tvr_cli.backbones.openclip.backbone import OpenClipBackbone, build
from tvr_cli.backbones.openclip.source import resolve
from tvr_cli.engine.features.fast_linear import use_fast_linear

FRAMES = 12
Encode = Callable[[], Any]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-32-quickgelu/openai", help="an open_clip ViT")
    parser.add_argument("--clips", type=int, default=4, help=f"of {FRAMES} frames, in one batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--others", action="store_true", help="int8, ONNX Runtime and OpenVINO too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    source = resolve(options.backbone)
    side = source.image_size
    theirs: Any = build(source.buildable).eval()
    pixels = torch.randint(0, 256, (options.clips, FRAMES, 3, side, side), dtype=torch.uint8)
    real = torch.ones(options.clips, FRAMES, dtype=torch.bool)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (source.mean, source.std))
    images = (pixels.flatten(0, 1) / 255 - mean) / std

    def ours(dtype: torch.dtype) -> Encode:
        model = OpenClipBackbone(copy.deepcopy(theirs), source, None).eval().to(dtype)
        use_fast_linear(model)
        return lambda: model.encode_frames(pixels, real).flatten(0, 1)

    fp32 = ours(torch.float32)
    works: dict[str, Encode] = {
        "open_clip": lambda: theirs.encode_image(images),
        "tvr": fp32,
        "tvr --precision bf16": ours(torch.bfloat16),
        **{f"floor {name}": work for name, work in _products(theirs, images).items()},
    }
    if options.others:
        works |= _others(theirs.visual, images)
    expected = works["open_clip"]().double()
    best = _measure(works, options.rounds)
    floor = min(ms for name, ms in best.items() if name.startswith("floor"))
    print(f"{options.backbone}, {len(images)} frames, torch {torch.__version__}, gemm {gemm.setting()}")
    for name, ms in best.items():
        error = "" if name.startswith("floor") else f"  1 - cosine {_error(works[name](), expected):.1e}"
        print(f"{name:22} {ms / len(images):7.1f} ms a frame  floor / time {floor / ms:4.0%}{error}")


def _measure(works: dict[str, Encode], rounds: int) -> dict[str, float]:
    best = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            started = time.process_time()
            work()
            best[name] = min(best[name], 1e3 * (time.process_time() - started))
    return best


def _error(found: Any, expected: Tensor) -> float:
    return float((1 - F.cosine_similarity(torch.as_tensor(found).double(), expected)).max())


def _products(model: Any, images: Tensor) -> dict[str, Encode]:
    """Return the products of encoding these images, made by each GEMM alone: of patches and linear layers."""
    with _recorded(model) as shapes:
        model.encode_image(images)
    held = {(m, k, n): (torch.randn(m, k), torch.randn(n, k)) for m, k, n in shapes}

    def by(multiply: Callable[[Tensor, Tensor], Tensor]) -> Encode:
        def work() -> None:
            for shape, times in shapes.items():
                for _ in range(times):
                    multiply(*held[shape])

        return work

    found = {"mkl": by(lambda a, w: torch.mm(a, w.T))}
    return found | ({"onednn": by(lambda a, w: gemm._onednn(a, w.T))} if gemm.has_onednn() else {})


@contextmanager
def _recorded(model: nn.Module) -> Iterator[Counter[tuple[int, int, int]]]:
    """Count the (M, K, N) of a tower's products while the block runs."""
    shapes: Counter[tuple[int, int, int]] = Counter()

    def see(module: Any, inputs: tuple[Tensor, ...], out: Any) -> None:
        x = inputs[0]
        if isinstance(module, nn.Conv2d):
            shapes[(out[:, 0].numel(), module.weight[0].numel(), len(module.weight))] += 1
        elif isinstance(module, nn.MultiheadAttention):
            width = x.shape[-1]
            shapes[(x.numel() // width, width, 3 * width)] += 1
            shapes[(x.numel() // width, width, width)] += 1
        elif type(module) is nn.Linear:
            shapes[(x.numel() // x.shape[-1], x.shape[-1], module.out_features)] += 1

    hooks = [module.register_forward_hook(see) for module in model.modules()]
    try:
        yield shapes
    finally:
        for hook in hooks:
            hook.remove()


def _others(visual: nn.Module, images: Tensor) -> dict[str, Encode]:
    torch.backends.quantized.engine = "x86"
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(visual), {nn.Linear}, dtype=torch.qint8)
    use_fast_linear(quantised)
    works: dict[str, Encode] = {"torch int8": lambda: quantised(images)}
    there = {name for name in ("onnx", "onnxscript", "onnxruntime", "openvino") if importlib.util.find_spec(name)}
    if not {"onnx", "onnxscript"} <= there:
        return works
    file = io.BytesIO()
    with torch.inference_mode(False):
        program: Any = torch.onnx.export(copy.deepcopy(visual), (images.clone(),), dynamo=True, verbose=False)
        program.save(file)
    given = images.numpy()
    if "onnxruntime" in there:
        import onnxruntime

        how = onnxruntime.SessionOptions()
        how.intra_op_num_threads = how.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(file.getvalue(), how, providers=["CPUExecutionProvider"])
        works["ONNX Runtime"] = lambda: session.run(None, {session.get_inputs()[0].name: given})[0]
    if "openvino" in there:
        import openvino

        for precision in ("f32", "bf16"):
            how = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(file.getvalue(), b""), "CPU", how)
            works[f"OpenVINO {precision}"] = lambda compiled=compiled: compiled(given)[0]  # type: ignore[misc]
    return works


if __name__ == "__main__":
    main()
