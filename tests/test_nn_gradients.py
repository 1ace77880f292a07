"""Gradients next to nothing do not reach the network."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from sklearn_deq import ExplicitEquivalentClassifier
from sklearn_deq.nn._gradients import drop_vanishing

# Probabilities from 1 down to 1e-45, and in float64 down to 1e-323.
GAPS = {torch.float32: (20.0, 60.0, 80.0, 103.0), torch.float64: (60.0, 700.0, 743.0)}


def confident(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    outputs = -torch.tensor([(0.0, *GAPS[dtype])], dtype=dtype)
    return outputs.requires_grad_(), torch.zeros(1, dtype=torch.long)


@pytest.mark.parametrize("dtype", GAPS)
def test_what_is_next_to_nothing_is_dropped_and_nothing_else(dtype):
    outputs, y = confident(dtype)
    cross_entropy(outputs, y).backward()
    full, outputs.grad = outputs.grad, None
    kind = torch.finfo(dtype)
    assert 0.0 < float(full[0, -1]) < kind.tiny
    drop_vanishing(outputs)
    cross_entropy(outputs, y).backward()
    kept = full.abs() >= kind.tiny / kind.eps
    assert 0 < int(kept.sum()) < full.numel()
    assert torch.equal(outputs.grad, torch.where(kept, full, 0.0))


def test_outputs_without_gradients_are_left_alone():
    drop_vanishing(torch.zeros(2, 3))


def test_half_precision_has_none_to_drop():
    outputs = torch.zeros(1, 3, dtype=torch.float16, requires_grad=True)
    drop_vanishing(outputs)
    (outputs * torch.tensor([1e-7, 1e-3, 1.0]).half()).sum().backward()
    assert bool((outputs.grad != 0).all())


def test_estimators_train_without_them():
    X = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)
    model = ExplicitEquivalentClassifier(width=8, max_epochs=1, random_state=0)
    net = model.fit(X, np.arange(40) % 5).net_
    gradients = {}
    for training in (False, True):
        outputs, y = confident(torch.float32)
        net.get_loss(outputs, y, training=training).backward()
        gradients[training] = outputs.grad
    assert int((gradients[False] != 0).sum()) > int((gradients[True] != 0).sum()) > 0
