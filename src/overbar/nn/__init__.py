"""Rules under `jax.nn`'s names and signatures, and layers beside them."""

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
from overbar.nn.convolution import conv
from overbar.nn.gates import gelu, mish, silu, swish
from overbar.nn.layers import linear
from overbar.nn.logsumexp import logmeanexp, logsumexp
from overbar.nn.long_short_term_memory import lstm
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

__all__ = [
    "avg_pool",
    "celu",
    "conv",
    "dot_product_attention",
    "elu",
    "gelu",
    "gru",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "identity",
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
    "relu",
    "relu6",
    "rnn",
    "selu",
    "sigmoid",
    "silu",
    "soft_sign",
    "softmax",
    "softplus",
    "sparse_plus",
    "sparse_sigmoid",
    "squareplus",
    "swish",
    "tanh",
]
