"""Rules under `optax.losses`' names and signatures."""

from overbar.losses.classification import (
    safe_softmax_cross_entropy,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from overbar.losses.regression import l2_loss, squared_error

__all__ = [
    "l2_loss",
    "safe_softmax_cross_entropy",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "squared_error",
]
