"""Gradients that are next to nothing, and slow."""

import torch

# Beyond it something would be lost: of float16, which ends at 1e-8, all.
_LARGEST = 1e-30


def drop_vanishing(outputs: torch.Tensor) -> None:
    """Let entries of the outputs' gradient that change nothing be zero.

    Of rows that are classified with confidence softmax leaves probabilities down to the
    least numbers there are. Times weights they become subnormal, and a processor takes
    up to a hundred times as long for products of these: all of a wide network's
    backward passes. Entries below tiny/ε, 1e-31 in float32, are dropped: a step that
    they would make alone is lost in the rounding of the weights, or under Adam's ε,
    and times weights of usual sizes what is left stays normal. Unlike
    `torch.set_flush_denormal` that holds for all threads.

    Parameters
    ----------
    outputs : tensor of shape (n, n_outputs)
        What the loss is computed of.
    """
    kind = torch.finfo(outputs.dtype)
    least = kind.tiny / kind.eps
    if outputs.requires_grad and least < _LARGEST:
        outputs.register_hook(
            lambda gradient: torch.where(gradient.abs() < least, 0.0, gradient)
        )
