"""The GEMM behind all scores: right, differentiable, settable, and never a surprise."""

from __future__ import annotations

import pytest
import torch
from tvr_kernels import gemm


@pytest.fixture(autouse=True)
def _restore_setting():
    before = gemm._chosen
    yield
    gemm._chosen = before


def matrices(m: int, k: int, n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(m, k, generator=g), torch.randn(k, n, generator=g)


@pytest.mark.parametrize("name", gemm.NAMES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 63, 5), (100, 512, 37), (1, 512, 1000)])
def test_the_product_is_exact_to_fp32_rounding(name, shape):
    gemm.use(name)
    a, b = matrices(*shape)

    error = (gemm.matmul(a, b).double() - a.double() @ b.double()).abs()
    bound = shape[1] ** 0.5 * 2.0**-24 * (a.double().abs() @ b.double().abs())  # a random walk of K fp32 roundings

    assert bool((error <= bound).all())


@pytest.mark.parametrize("name", gemm.NAMES)
@pytest.mark.parametrize("view", ["a.T", "b.T", "strided a", "strided b"])
def test_strides_do_not_change_the_product(name, view):
    gemm.use(name)
    a, b = matrices(24, 40, 32)
    expected = a.double() @ b.double()
    views = {
        "a.T": (a.T.contiguous().T, b),
        "b.T": (a, b.T.contiguous().T),
        "strided a": (torch.stack([a, a], -1)[..., 0], b),
        "strided b": (a, torch.stack([b, b], -1)[..., 0]),
    }

    torch.testing.assert_close(gemm.matmul(*views[view]).double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", gemm.NAMES)
def test_gradients_are_those_of_the_product(name):
    gemm.use(name)
    a, b = (x.requires_grad_() for x in matrices(7, 33, 11))
    weight = torch.randn(7, 11, generator=torch.Generator().manual_seed(1))

    (gemm.matmul(a, b) * weight).sum().backward()

    torch.testing.assert_close(a.grad, weight @ b.detach().T)
    torch.testing.assert_close(b.grad, a.detach().T @ weight)


def test_only_the_needed_gradient_is_computed():
    gemm.use("onednn")
    a, b = matrices(7, 33, 11)
    b.requires_grad_()

    gemm.matmul(a, b).sum().backward()

    assert a.grad is None and b.grad is not None


def test_fp64_stays_fp64_and_passes_gradcheck():
    gemm.use("onednn")
    a, b = (x.double().requires_grad_() for x in matrices(3, 5, 4))

    assert gemm.matmul(a, b).dtype == torch.float64
    assert torch.autograd.gradcheck(gemm.matmul, (a, b))


def test_empty_products_have_a_shape():
    gemm.use("onednn")

    assert gemm.matmul(torch.zeros(0, 5), torch.zeros(5, 3)).shape == (0, 3)
    assert torch.equal(gemm.matmul(torch.zeros(2, 0), torch.zeros(0, 3)), torch.zeros(2, 3))


def test_the_choice_is_made_once_and_can_be_fixed():
    gemm._chosen = None
    first = gemm.setting()

    assert first in gemm.NAMES and gemm.setting() == first
    assert gemm.use("mkl") == "mkl" == gemm.setting()


def test_without_the_operator_everything_falls_back_to_torch_mm(monkeypatch):
    monkeypatch.setattr(gemm, "_operator", lambda: None)
    gemm._chosen = None
    a, b = matrices(5, 6, 7)

    assert gemm.setting() == "mkl"
    assert gemm.use("onednn") == "mkl"
    assert torch.equal(gemm.matmul(a, b), torch.mm(a, b))


def test_wrong_ranks_and_names_are_refused():
    with pytest.raises(ValueError, match="two matrices"):
        gemm.matmul(torch.zeros(2, 3, 4), torch.zeros(4, 5))
    with pytest.raises(ValueError, match="mkl, onednn"):
        gemm.use("openblas")
