"""What many sentences cost after the start, against the matrix products that encoding them cannot do without.

    python scripts/bench_sentences.py

300 sentences of the bank, one thread, processor time. ViT-B/32's text tower with random weights (width 512, 12 layers,
8 heads, GELU, or with --quick OpenAI's QuickGELU), written to a temporary file and mapped; an index of 1 000 synthetic
clips (D 512, F 12), `text_guided`, searched without torch as `tvr query -` does. The floor is one pass of the tower's
products over all sentences' tokens, no pads.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from bench_index import blocks, scorer, timed
from open_clip.tokenizer import default_bpe
from safetensors.numpy import save_file

from tvr_cli.backbones.text_tower.bpe import BytePairs
from tvr_cli.backbones.text_tower.mapped import MappedTensors
from tvr_cli.backbones.text_tower.tower import Configuration, TextTower
from tvr_cli.engine.searching import bank, light_search, measure
from tvr_cli.engine.searching.hits import SearchOptions
from tvr_cli.methods import _light
from tvr_cli.stores.index.arrays import ArrayIndex
from tvr_cli.stores.index.store import write_index

WIDTH, LAYERS, HEADS, CONTEXT, WORDS = 512, 12, 8, 77, 49_408


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    sentences = bank.usual("any").sentences[: options.sentences]
    with tempfile.TemporaryDirectory(prefix="bench-sentences-") as folder:
        weights = Path(folder) / "tower.safetensors"
        save_file(random_tower(), weights)
        tower = TextTower(MappedTensors(weights), Configuration(HEADS, options.quick, CONTEXT))
        tokenizer = BytePairs(Path(default_bpe()))
        (ids, n_tokens), spent = timed(lambda: tokenizer.encode(sentences, 32))
        tower.encode_pooled(ids[:2])
        print(f"{len(sentences)} sentences of {n_tokens.mean():.1f} tokens, {torch.get_num_threads()} thread")
        row("tokens", spent, len(sentences))
        pooled, tower_s = best(lambda: tower.encode_pooled(ids))
        row("text tower", tower_s, len(sentences))
        _, padded = best(lambda: tower.encode(ids[:32]), 1)
        row("  32 of them with pads up to 32", padded, 32)
        given = argparse.Namespace(method="text_guided", child=Path(folder) / "index")
        method = scorer(given)
        made = write_index(
            given.child, {}, blocks(given, options.clips, 0), measure=lambda index: measured(method, index)
        )
        index, light = ArrayIndex.open(made.folder), _light.METHODS[given.method]()
        _, search_s = best(lambda: light_search.search(light, index, pooled, SearchOptions()))
        row(f"search of {options.clips} clips", search_s, len(sentences))
        _, floor = best(lambda: products(tower, int(n_tokens.sum())))
        row("the tower's matrix products", floor, len(sentences))
        print(f"all of it / these products: {(spent + tower_s + search_s) / floor:.2f}")


def measured(method, index) -> dict:
    way, _ = measure.measured(method, index, lambda: (None, ""), seconds=0)
    return {"way": vars(way) if hasattr(way, "__dict__") else {f: getattr(way, f) for f in way.__slots__}}


def products(tower: TextTower, tokens: int) -> None:
    """Do what a layer's four linear maps do to so many tokens, in every layer."""
    x = np.ones((tokens, WIDTH), np.float32)
    for layer in range(LAYERS):
        name = f"transformer.resblocks.{layer}."
        x @ tower._get(f"{name}attn.in_proj_weight").T
        x @ tower._get(f"{name}attn.out_proj.weight").T
        (x @ tower._get(f"{name}mlp.c_fc.weight").T) @ tower._get(f"{name}mlp.c_proj.weight").T


def random_tower() -> dict[str, np.ndarray]:
    g = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return (g.standard_normal(shape) * 0.02).astype(np.float32)

    tensors = {"token_embedding.weight": draw(WORDS, WIDTH), "positional_embedding": draw(CONTEXT, WIDTH)}
    tensors |= {"text_projection": draw(WIDTH, WIDTH), "logit_scale": np.ones(1, np.float32)}
    norms = ["ln_final", *(f"transformer.resblocks.{i}.ln_{n}" for i in range(LAYERS) for n in (1, 2))]
    tensors |= {f"{name}.weight": np.ones(WIDTH, np.float32) for name in norms}
    tensors |= {f"{name}.bias": np.zeros(WIDTH, np.float32) for name in norms}
    for i in range(LAYERS):
        name = f"transformer.resblocks.{i}."
        for part, rows, columns in (
            ("attn.in_proj_", 3, 1),
            ("attn.out_proj.", 1, 1),
            ("mlp.c_fc.", 4, 1),
            ("mlp.c_proj.", 1, 4),
        ):
            tensors[f"{name}{part}weight"] = draw(rows * WIDTH, columns * WIDTH)
            tensors[f"{name}{part}bias"] = np.zeros(rows * WIDTH, np.float32)
    return tensors


def best(act, times: int = 3):
    """Return what `act` returns, and the least processor seconds of some runs."""
    runs = [timed(act) for _ in range(times)]
    return runs[0][0], min(spent for _, spent in runs)


def row(what: str, seconds: float, sentences: int) -> None:
    print(f"| {what:<32} | {seconds:.3f} s | {1e3 * seconds / sentences:.2f} ms a sentence |", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sentences", type=int, default=300)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="QuickGELU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
