"""The networks that are compared, with weights drawn anew, and how they train."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from sklearn_deq.estimators._norms import matched_norms
from sklearn_deq.exceptions import MatchWarning
from sklearn_deq.nn import EquilibriumLayer, ExplicitNetwork
from sklearn_deq.nn._gradients import drop_vanishing
from sklearn_deq.theory import (
    EquilibriumMoments,
    ExplicitLayer,
    equilibrium_moments,
    explicit_moments,
    solve_match,
)

# The paper's architectures. Not matched are "plain", a network of their shape, and
# "single", one of a Hermite layer's; both have the activation of the DEQ.
PAPERS = {"relu": "leaky_relu", "tanh": "hard_tanh"}
MODELS = ("deq", "paper", "hermite", "plain", "single")


def control_of(model: str, activation: str) -> str | None:
    """The network of a matched one's shape that is not matched."""
    if model == "paper" or (model, activation) == ("hermite", "tanh"):
        return "plain"
    return "single" if model == "hermite" else None


def models_of(activation: str) -> tuple[str, ...]:
    """Models that differ: the paper's network of tanh has a single layer."""
    return MODELS if activation == "relu" else MODELS[:-1]


def moments_of(X: np.ndarray, activation: str, variance: float) -> EquilibriumMoments:
    """The DEQ's constants, with σ_b² = 1 − σ_a² and τ0 of the rows."""
    tau0 = float(np.sqrt(np.mean(X**2)))
    return equilibrium_moments(activation, variance, 1.0 - variance, tau0=tau0)


def build(
    model: str,
    moments: EquilibriumMoments,
    X: np.ndarray,
    width: int,
    seed: int,
    *,
    trainable: str = "all",
    device: str = "cpu",
) -> nn.Module:
    """One of the models; its NTK is matched if all weights are trained, else its CK."""
    generator = torch.Generator().manual_seed(seed)
    settings = {"trainable": trainable, "generator": generator, "device": device}
    if model == "deq":
        return EquilibriumLayer(
            X.shape[1],
            width,
            activation=moments.activation,
            recurrent_variance=moments.recurrent_variance,
            input_variance=moments.input_variance,
            offset=moments.offset,
            **settings,
        )
    layers, multipliers = explicit_layers(model, moments, X, trainable)
    return ExplicitNetwork(
        X.shape[1], width, layers, multipliers=multipliers, **settings
    )


def explicit_layers(
    model: str, moments: EquilibriumMoments, X: np.ndarray, trainable: str
) -> tuple[Sequence[ExplicitLayer], Sequence[float] | None]:
    """Layers of a model without recurrence, and multipliers of their learning rates."""
    architecture = PAPERS[str(moments.activation)]
    if model in ("plain", "single"):
        depth = 2 if architecture == "leaky_relu" and model == "plain" else 1
        plain = explicit_moments([moments.activation] * depth, tau0=moments.tau0)
        return plain.layers, None
    norms = None
    if model == "hermite":
        architecture = "hermite"
        lengths = np.sqrt(np.mean(X**2, axis=1))
        norms = matched_norms(moments, lengths)
    # The paper matches the CK, whatever is trained; a Hermite layer is made for the
    # kernel of what is.
    kernel = "ntk" if model == "hermite" and trainable == "all" else "ck"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MatchWarning)
        match = solve_match(
            moments, kernel=kernel, architecture=architecture, norms=norms
        )
    return match.layers, match.multipliers if trainable == "all" else None


def features(body: nn.Module, X: np.ndarray) -> np.ndarray:
    """Outputs of the hidden layers, in blocks."""
    rows = torch.from_numpy(X).to(_device(body), torch.float32)
    with torch.inference_mode():
        parts = [body(block).cpu() for block in rows.split(1000)]
    return torch.cat(parts).numpy()


def _device(body: nn.Module) -> torch.device:
    return next(body.parameters()).device


def finite_width_kernel(
    X: np.ndarray, moments: EquilibriumMoments, kernel: str, width: int, draws: int
) -> np.ndarray:
    """Mean kernel of some DEQs of finite width: "ck", "ntk_recurrent" or "ntk"."""
    drawn = []
    for seed in range(draws):
        body = build("deq", moments, X, width, seed, trainable="readout")
        drawn.append(network_kernel(body, X, kernel, seed))
    return np.mean(drawn, axis=0)


def network_kernel(
    body: nn.Module, X: np.ndarray, kernel: str, seed: int, n_readouts: int = 1
) -> np.ndarray:
    """Kernel of a network with its weights as they are; only a DEQ's "ntk_recurrent".

    The tangent kernels are those of outputs f = wᵀz with random w, averaged over some
    (always the same for an explicit network, and for its last layer all). A DEQ's
    gradient is z in w, σ_a v zᵀ in A and σ_b v xᵀ/√p in B, v being that in the drive.
    """
    rows = torch.from_numpy(X).float()
    with torch.no_grad():
        if not isinstance(body, EquilibriumLayer):
            assert isinstance(body, ExplicitNetwork)
            assert kernel in ("ck", "ntk")
            if kernel == "ck":
                return _gram(body(rows))
            return body.tangent_kernel(rows, n_readouts).numpy()
        z, pre = body.equilibrium(body.drive(rows), body.recurrent_weight)
        G = _gram(z)
        if kernel == "ck":
            return G
        generator = torch.Generator().manual_seed(1000 + seed)
        V = np.zeros_like(G)
        for w in torch.randn(n_readouts, z.shape[1], generator=generator):
            V += _gram(body.adjoint(pre, w.expand_as(z).contiguous())) / n_readouts
    K = G + body.recurrent_scale**2 * V * G
    if kernel == "ntk":
        K += body.input_scale**2 * V * (X @ X.T)
    return K


def _gram(Z: torch.Tensor) -> np.ndarray:
    values = Z.numpy().astype(np.float64)
    return values @ values.T


@dataclass
class Curves:
    """What training left behind, epoch by epoch.

    Attributes
    ----------
    loss : list of float
        Training loss.
    scores : list of float
        Accuracy, or R² of numbers, on the test rows; that at the end alone unless more
        was asked for.
    readout : tensor of shape (n_outputs, m)
        The readout's weights.
    """

    loss: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    readout: torch.Tensor | None = None


def train(
    body: nn.Module,
    data: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    *,
    epochs: int,
    lr: float,
    seed: int,
    batch: int = 64,
    weight_decay: float = 0.0,
    dropout: float = 0.0,
    label_smoothing: float = 0.0,
    patience: int | None = None,
    optimizer: str = "adam",
    every_epoch: bool = True,
) -> Curves:
    """Train body and readout with a cosine decay, by Adam (as the estimators) or SGD.

    Labels are classes, told apart by cross-entropy; columns of floats are fitted by
    least squares, without an intercept. Label smoothing is of classes, dropout
    acts on the features. With patience a tenth of the training rows is set
    aside, and training ends when their loss has not fallen for so many epochs. Test
    rows are predicted after every epoch or, which saves a wide DEQ's time, at the end.
    All is on the body's device; the order of the rows is the same on any.
    """
    device = _device(body)
    X, y, X_test, y_test = (_tensor(values).to(device) for values in data)
    n_outputs, loss_of = _objective(y, y_test, label_smoothing)
    n_valid = len(X) // 10 if patience else 0
    X_valid, y_valid, X, y = X[:n_valid], y[:n_valid], X[n_valid:], y[n_valid:]
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    readout = torch.zeros(n_outputs, _width(body), device=device, requires_grad=True)
    weights = [p for p in body.parameters() if p.requires_grad]
    kind = {
        "adam": functools.partial(torch.optim.Adam, fused=True),
        "sgd": torch.optim.SGD,
    }[optimizer]
    stepper = kind([*weights, readout], lr=lr, weight_decay=weight_decay)
    steps = epochs * -(-len(X) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(stepper, steps)
    curves, best, waited = Curves(), np.inf, 0
    for _ in range(epochs):
        body.train()
        total = 0.0
        order = torch.randperm(len(X), generator=generator).to(device)
        for rows in order.split(batch):
            z = nn.functional.dropout(body(X[rows]), dropout)
            outputs = z @ readout.T
            drop_vanishing(outputs)
            loss = loss_of(outputs, y[rows])
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            schedule.step()
            if isinstance(body, EquilibriumLayer):
                body.stabilize()
            total += loss.item() * len(rows)
        body.eval()
        curves.loss.append(total / len(X))
        if every_epoch:
            curves.scores.append(_score(body, readout, X_test, y_test))
        if patience:
            with torch.inference_mode():
                held_out = float(loss_of(body(X_valid) @ readout.T, y_valid))
            best, waited = (held_out, 0) if held_out < best else (best, waited + 1)
            if waited >= patience:
                break
    if not every_epoch:
        curves.scores.append(_score(body, readout, X_test, y_test))
    curves.readout = readout.detach()
    return curves


def _tensor(values: np.ndarray) -> torch.Tensor:
    """Numbers in float32, classes as they are."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.float() if tensor.is_floating_point() else tensor


def _objective(
    y: torch.Tensor, y_test: torch.Tensor, label_smoothing: float
) -> tuple[int, nn.Module]:
    """How many outputs targets need, and their loss."""
    if y.is_floating_point():
        return y.shape[1], nn.MSELoss()
    n_classes = int(max(y.max(), y_test.max())) + 1
    return n_classes, nn.CrossEntropyLoss(label_smoothing=label_smoothing)


def _width(body: Any) -> int:
    if isinstance(body, EquilibriumLayer):
        return int(body.recurrent_weight.shape[0])
    return int(body.weights[-1].shape[0])


def evaluate(
    body: nn.Module, readout: torch.Tensor, X: np.ndarray, y: np.ndarray
) -> float:
    """Score of a network on rows, after it was trained."""
    rows, targets = (_tensor(values).to(_device(body)) for values in (X, y))
    return _score(body, readout, rows, targets)


def _score(
    body: nn.Module, readout: torch.Tensor, X: torch.Tensor, y: torch.Tensor
) -> float:
    with torch.inference_mode():
        outputs = torch.cat([body(rows) @ readout.T for rows in X.split(1000)])
    return score(outputs.cpu().numpy(), y.cpu().numpy())


def score(outputs: np.ndarray, y: np.ndarray) -> float:
    """Accuracy of the largest output where y has classes, R² where it has numbers."""
    if y.ndim == 1:
        return float(np.mean(outputs.argmax(axis=1) == y))
    # Of several columns together, not their mean.
    rest = np.sum((outputs - y) ** 2, dtype=np.float64)
    return float(1.0 - rest / np.sum((y - y.mean(axis=0)) ** 2, dtype=np.float64))


def alignment(K: np.ndarray, L: np.ndarray) -> float:
    """Centred kernel alignment: 1 for kernels that are multiples of each other."""
    K, L = (M - M.mean(axis=0) - M.mean(axis=1)[:, None] + M.mean() for M in (K, L))
    return float(np.sum(K * L) / np.sqrt(np.sum(K * K) * np.sum(L * L)))
