"""InfoNCE on matrices that a reader can check, and its treatment of further positives."""

from __future__ import annotations

import math

import torch

from tvr_cli.nn.losses import false_negatives, info_nce, negatives


def test_info_nce_of_a_constant_matrix_is_log_of_its_size():
    loss = info_nce(torch.full((4, 4), 7.0))
    assert all(abs(part.item() - math.log(4)) < 1e-6 for part in loss)


def test_info_nce_directions_are_rows_and_columns():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]], dtype=torch.float64)
    loss = info_nce(logits)
    row = (math.log(1 + math.e) + math.log(1 + math.e**2)) / 2
    column = (math.log(1 + math.e**2) + math.log(1 + math.e)) / 2
    assert abs(loss.t2v.item() - row) < 1e-12 and abs(loss.v2t.item() - column) < 1e-12
    skewed = info_nce(torch.tensor([[0.0, 3.0], [0.0, 0.0]], dtype=torch.float64))
    assert abs(skewed.t2v.item() - (math.log(1 + math.e**3) + math.log(2)) / 2) < 1e-12
    assert abs(skewed.v2t.item() - (math.log(2) + math.log(1 + math.e**3)) / 2) < 1e-12
    assert skewed.total.item() == (skewed.t2v.item() + skewed.v2t.item()) / 2


def test_diagonal_positives_are_exactly_the_papers_loss():
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert info_nce(logits, torch.eye(5, dtype=torch.bool)) == info_nce(logits)


def test_other_captions_of_a_video_are_not_negatives():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    video = torch.tensor([4, 9, 4])
    positives = video[:, None] == video[None, :]
    info_nce(logits, positives).total.backward()
    assert logits.grad[0, 2] == 0 and logits.grad[2, 0] == 0
    assert (logits.grad[~false_negatives(positives)] != 0).all()
    assert negatives(positives).tolist() == [[False, True, False], [True, False, True], [False, True, False]]
