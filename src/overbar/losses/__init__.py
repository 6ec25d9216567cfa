"""Rules under `optax.losses`' names and signatures."""

from overbar.losses.binary import hinge_loss, perceptron_loss, sigmoid_binary_cross_entropy, sparsemax_loss
from overbar.losses.cosine import cosine_distance, cosine_similarity
from overbar.losses.divergences import (
    convex_kl_divergence,
    generalized_kl_divergence,
    kl_divergence,
    kl_divergence_with_log_targets,
)
from overbar.losses.focal import sigmoid_focal_loss
from overbar.losses.poly import poly_loss_cross_entropy
from overbar.losses.regression import huber_loss, l2_loss, log_cosh, squared_error
from overbar.losses.segmentation import binary_dice_loss, dice_loss, multiclass_generalized_dice_loss
from overbar.losses.smoothing import smooth_labels

__all__ = [
    "binary_dice_loss",
    "convex_kl_divergence",
    "cosine_distance",
    "cosine_similarity",
    "dice_loss",
    "generalized_kl_divergence",
    "hinge_loss",
    "huber_loss",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "l2_loss",
    "log_cosh",
    "multiclass_generalized_dice_loss",
    "perceptron_loss",
    "poly_loss_cross_entropy",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "smooth_labels",
    "sparsemax_loss",
    "squared_error",
]
