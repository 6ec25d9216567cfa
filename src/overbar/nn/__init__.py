"""Rules under `jax.nn`'s names and signatures, and layers beside them."""

from overbar.nn.activations import relu, sigmoid, softplus, tanh
from overbar.nn.layers import bilinear, linear
from overbar.nn.long_short_term_memory import lstm
from overbar.nn.recurrent import gru, rnn

__all__ = ["bilinear", "gru", "linear", "lstm", "relu", "rnn", "sigmoid", "softplus", "tanh"]
