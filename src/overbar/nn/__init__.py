"""Rules under `jax.nn`'s names and signatures, and layers beside them."""

from overbar.nn.activations import relu, sigmoid, softplus, tanh
from overbar.nn.convolution import conv
from overbar.nn.layers import linear
from overbar.nn.pooling import avg_pool, max_pool

__all__ = ["avg_pool", "conv", "linear", "max_pool", "relu", "sigmoid", "softplus", "tanh"]
