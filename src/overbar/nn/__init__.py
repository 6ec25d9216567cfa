"""Rules under `jax.nn`'s names and signatures, and layers beside them."""

from overbar.nn.activations import relu, sigmoid, softplus, tanh
from overbar.nn.layers import linear
from overbar.nn.logsumexp import logmeanexp, logsumexp
from overbar.nn.softmax import log_softmax, softmax

__all__ = [
    "linear",
    "log_softmax",
    "logmeanexp",
    "logsumexp",
    "relu",
    "sigmoid",
    "softmax",
    "softplus",
    "tanh",
]
