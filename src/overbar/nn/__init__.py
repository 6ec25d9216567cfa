"""Rules under `jax.nn`'s names and signatures, and layers beside them.

What `jax.nn` has and is not differentiable, or has no rule here, is `jax.nn`'s own.
"""

from jax.nn import get_scaled_dot_general_config, initializers, one_hot, scaled_dot_general, scaled_matmul

from overbar.nn.activations import (
    log1mexp,
    log_sigmoid,
    sigmoid,
    soft_sign,
    softplus,
    sparse_plus,
    sparse_sigmoid,
    squareplus,
    tanh,
)
from overbar.nn.attention import dot_product_attention
from overbar.nn.batch_norm import batch_norm, batch_norm_inference
from overbar.nn.convolution import conv
from overbar.nn.dropout import dropout
from overbar.nn.embedding import embedding
from overbar.nn.gates import gelu, mish, silu, swish
from overbar.nn.glu import glu
from overbar.nn.layers import bilinear, linear
from overbar.nn.logsumexp import logmeanexp, logsumexp
from overbar.nn.long_short_term_memory import lstm
from overbar.nn.normalization import group_norm, layer_norm, rms_norm
from overbar.nn.pooling import avg_pool, max_pool
from overbar.nn.rectifiers import (
    celu,
    elu,
    hard_sigmoid,
    hard_silu,
    hard_swish,
    hard_tanh,
    identity,
    leaky_relu,
    relu,
    relu6,
    selu,
)
from overbar.nn.recurrent import gru, rnn
from overbar.nn.softmax import log_softmax, softmax
from overbar.nn.standardize import standardize

__all__ = [
    "avg_pool",
    "batch_norm",
    "batch_norm_inference",
    "bilinear",
    "celu",
    "conv",
    "dot_product_attention",
    "dropout",
    "elu",
    "embedding",
    "gelu",
    "get_scaled_dot_general_config",
    "glu",
    "group_norm",
    "gru",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "identity",
    "initializers",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log1mexp",
    "log_sigmoid",
    "log_softmax",
    "logmeanexp",
    "logsumexp",
    "lstm",
    "max_pool",
    "mish",
    "one_hot",
    "relu",
    "relu6",
    "rms_norm",
    "rnn",
    "scaled_dot_general",
    "scaled_matmul",
    "selu",
    "sigmoid",
    "silu",
    "soft_sign",
    "softmax",
    "softplus",
    "sparse_plus",
    "sparse_sigmoid",
    "squareplus",
    "standardize",
    "swish",
    "tanh",
]
