"""Rules under `jax.nn`'s names and signatures, and layers beside them."""

from overbar.nn.activations import relu, sigmoid, softplus, tanh
from overbar.nn.attention import dot_product_attention
from overbar.nn.layers import linear

__all__ = ["dot_product_attention", "linear", "relu", "sigmoid", "softplus", "tanh"]
