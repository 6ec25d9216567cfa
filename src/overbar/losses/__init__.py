"""Rules under `optax.losses`' names and signatures."""

from overbar.losses.binary import hinge_loss, perceptron_loss, sigmoid_binary_cross_entropy, sparsemax_loss
from overbar.losses.cosine import cosine_distance, cosine_similarity
from overbar.losses.divergences import (
    convex_kl_divergence,
    generalized_kl_divergence,
    kl_divergence,
    kl_divergence_with_log_targets,
)
from overbar.losses.regression import huber_loss, l2_loss, log_cosh, squared_error
from overbar.losses.smoothing import smooth_labels

__all__ = [
    "convex_kl_divergence",
    "cosine_distance",
    "cosine_similarity",
    "generalized_kl_divergence",
    "hinge_loss",
    "huber_loss",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "l2_loss",
    "log_cosh",
    "perceptron_loss",
    "sigmoid_binary_cross_entropy",
    "smooth_labels",
    "sparsemax_loss",
    "squared_error",
]
