"""The authors' optimizers against the traces of their code: BertAdam of GARE and EagleNet, X-Pool's AdamW."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tvr_cli.config import TrainConfig
from tvr_cli.engine.training.optimisers import BertAdam, build, group_parameters, multiplier, set_rates

REPOSITORY = Path(__file__).resolve().parents[2]
DTYPES = [pytest.param(torch.float32, id="fp32"), pytest.param(torch.float64, id="fp64")]


def traces(method: str) -> list:
    """The golden files of a method that hold an optimizer trace, as pytest parameters `[method-stem-optim]`."""
    roots = [REPOSITORY / "tests" / "golden" / method]
    shared = os.environ.get("TVR_GOLDEN_DIR") or REPOSITORY.parent / "shared" / "methods"
    roots.append(Path(shared) / method / "golden")
    found = {}
    for root in roots:
        for path in sorted(root.glob("*.safetensors")):
            with safe_open(path, "pt") as f:
                if any(key.startswith("optim") for key in f.keys()):  # noqa: SIM118 - not a mapping
                    found.setdefault(path.stem, path)
    return [pytest.param(path, id=f"{method}-{stem}-optim") for stem, path in sorted(found.items())]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path", traces("gare"))
def test_bertadam_follows_gares_trace(path: Path, dtype: torch.dtype) -> None:
    with safe_open(path, "pt") as f:
        lr, coef, decay, warmup, b1, b2, eps, total, max_norm = f.get_tensor("optim.hp").tolist()
        start = {n: f.get_tensor(f"optim.init.{n}").to(dtype) for n in ("w", "b", "clip_w")}
        gradients = {n: f.get_tensor(f"optim.grad.{n}").to(dtype) for n in start}
        wanted = {n: f.get_tensor(f"optim.traj.{n}").to(dtype) for n in start}
    parameters = {n: torch.nn.Parameter(x.clone()) for n, x in start.items()}
    groups = [
        {"params": [parameters["w"]], "lr": lr, "weight_decay": decay},
        {"params": [parameters["b"]], "lr": lr, "weight_decay": 0.0},
        {"params": [parameters["clip_w"]], "lr": lr * coef, "weight_decay": decay},
    ]
    schedule = partial(multiplier, "authors", total=total, warmup=warmup)
    optimizer = BertAdam(groups, lr, lambda step: schedule(step), betas=(b1, b2), eps=eps, max_norm=1.0)
    for step in range(len(gradients["w"])):
        for name, p in parameters.items():
            p.grad = gradients[name][step].clone()
        torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm)
        optimizer.step()
        for name, p in parameters.items():
            # Stored in fp32: a few units in the last place of values near 1.
            torch.testing.assert_close(p.detach(), wanted[name][step], rtol=3e-7, atol=1e-7, msg=f"{name}, step {step}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path", traces("eaglenet"))
def test_bertadam_and_groups_follow_eaglenets_trace(path: Path, dtype: torch.dtype) -> None:
    with safe_open(path, "pt") as f:
        keys = list(f.keys())
        settings = json.loads(f.metadata()["config"])["optim"]
        names = [k.removeprefix("optim/grad/") for k in keys if k.startswith("optim/grad/")]
        gradients = {n: f.get_tensor(f"optim/grad/{n}").to(dtype) for n in names}
        start = {n: _start(f, n).to(dtype) for n in names}
        wanted = [{n: f.get_tensor(f"optim/step{t}/{n}").to(dtype) for n in names} for t in range(settings["steps"])]
        norms = [f.get_tensor(f"optim/step{t}/grad_norm_before_clip").item() for t in range(settings["steps"])]
    train = TrainConfig(
        optimizer="bertadam", schedule="authors", lr=settings["lr"], backbone_lr=settings["lr"] * settings["coef_lr"],
        decay="authors", weight_decay=0.2, warmup=settings["warmup"],
    )  # fmt: skip
    parameters = {n: torch.nn.Parameter(x.clone()) for n, x in start.items()}
    groups = group_parameters(parameters.items(), train)
    optimizer = build(groups, train, settings["t_total"])
    for t, norm in enumerate(norms):
        for name, p in parameters.items():
            # The norm is over all of the model's parameters, most of which the file does not hold.
            p.grad = gradients[name] * (1 + 0.5 * t) * min(1.0, 1.0 / (norm + 1e-6))
        optimizer.step()
        for name, p in parameters.items():
            torch.testing.assert_close(p.detach(), wanted[t][name], rtol=3e-7, atol=1e-7, msg=f"{name}, step {t}")


@pytest.mark.parametrize("path", traces("eaglenet"))
def test_groups_by_rule_equal_the_authors_groups(path: Path) -> None:
    with safe_open(path, "pt") as f:
        listed = json.loads(f.metadata()["config"])["optim_groups"]
    train = TrainConfig(lr=1e-4, backbone_lr=1e-7, logit_scale_lr=1e-7, decay="authors", weight_decay=0.2)
    wanted = {name: (g["lr"], g["weight_decay"]) for g in listed for name in g["names"]}
    named = [(name, torch.nn.Parameter(torch.zeros(2, 2))) for name in wanted]
    ours = {name: (g.lr, g.weight_decay) for g in group_parameters(named, train).trained for name, _ in g.parameters}
    assert ours.keys() == wanted.keys()
    for name, pair in wanted.items():
        assert ours[name] == pytest.approx(pair), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path", traces("xpool"))
def test_hugging_faces_adamw_follows_xpools_trace(path: Path, dtype: torch.dtype) -> None:
    with safe_open(path, "pt") as f:
        settings = json.loads(f.metadata()["config"])["optim"]
        names = [*(f"pool_frames.{n}" for n in settings["params"]), "clip.logit_scale"]
        start = {n: f.get_tensor(f"param.{n}").to(dtype) for n in names}
        gradients = {n: f.get_tensor(f"train.grad.{n}").to(dtype) for n in names}
        steps = sorted({k.split(".")[1] for k in f.keys() if k.startswith("optim.step")})  # noqa: SIM118
        wanted = [{k: f.get_tensor(f"optim.{s}.{k}").to(dtype) for k in (*names, "lr_noclip")} for s in steps]
        norms = [float(f.get_tensor(f"optim.{s}.grad_norm_before_clip")) for s in steps]
    train = TrainConfig(
        optimizer="hf-adamw", schedule="hf-cosine", decay="all", weight_decay=settings["weight_decay"],
        lr=settings["lr_noclip"], backbone_lr=settings["lr_clip"], logit_scale_lr=settings["lr_clip"],
        warmup=settings["warmup"] / settings["steps"],
    )  # fmt: skip
    parameters = {n: torch.nn.Parameter(x.clone()) for n, x in start.items()}
    groups = group_parameters(parameters.items(), train)
    optimizer = build(groups, train, settings["steps"])
    for t, expected in enumerate(wanted):
        for name, p in parameters.items():
            p.grad = gradients[name] * (1 + 0.5 * t)
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        assert float(norm) == pytest.approx(norms[t], rel=1e-6)
        factor = multiplier(train.schedule, t, settings["steps"], train.warmup)
        assert train.lr * factor == pytest.approx(float(expected["lr_noclip"]), rel=1e-6)
        set_rates(optimizer, groups, factor)
        optimizer.step()
        close = {"rtol": 1e-12, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 3e-7, "atol": 1e-7}
        for name, p in parameters.items():
            torch.testing.assert_close(p.detach(), expected[name], **close, msg=f"{name}, step {t}")


def _start(f, name: str) -> torch.Tensor:
    key = f"A/param/{name}"
    return f.get_tensor(key) if key in f.keys() else f.get_tensor(f"clip_param/{name.removeprefix('clip.')}")  # noqa: SIM118
