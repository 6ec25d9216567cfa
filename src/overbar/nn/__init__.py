"""Rules under `jax.nn`'s names and signatures, and layers beside them.

What `jax.nn` has and is not differentiable, or has no rule here, is `jax.nn`'s own.
"""

from jax.nn import (
    get_scaled_dot_general_config,
    initializers,
    one_hot,
    scaled_dot_general,
    scaled_matmul,
)

from overbar.nn.activations import relu, sigmoid, softplus, tanh
from overbar.nn.batch_norm import batch_norm, batch_norm_inference
from overbar.nn.dropout import dropout
from overbar.nn.embedding import embedding
from overbar.nn.glu import glu
from overbar.nn.layers import linear
from overbar.nn.logsumexp import logmeanexp, logsumexp
from overbar.nn.normalization import group_norm, layer_norm, rms_norm
from overbar.nn.softmax import log_softmax, softmax
from overbar.nn.standardize import standardize

__all__ = [
    "batch_norm",
    "batch_norm_inference",
    "dropout",
    "embedding",
    "get_scaled_dot_general_config",
    "glu",
    "group_norm",
    "initializers",
    "layer_norm",
    "linear",
    "log_softmax",
    "logmeanexp",
    "logsumexp",
    "one_hot",
    "relu",
    "rms_norm",
    "scaled_dot_general",
    "scaled_matmul",
    "sigmoid",
    "softmax",
    "softplus",
    "standardize",
    "tanh",
]
