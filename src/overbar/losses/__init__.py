"""Rules under `optax.losses`' names and signatures."""

from overbar.losses.binary import hinge_loss, perceptron_loss, sigmoid_binary_cross_entropy, sparsemax_loss
from overbar.losses.classification import (
    safe_softmax_cross_entropy,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from overbar.losses.contrastive import ntxent, triplet_margin_loss
from overbar.losses.cosine import cosine_distance, cosine_similarity
from overbar.losses.ctc import ctc_loss, ctc_loss_with_forward_probs
from overbar.losses.divergences import (
    convex_kl_divergence,
    generalized_kl_divergence,
    kl_divergence,
    kl_divergence_with_log_targets,
)
from overbar.losses.fenchel_young import make_fenchel_young_loss
from overbar.losses.focal import sigmoid_focal_loss
from overbar.losses.fused import linear_cross_entropy
from overbar.losses.multiclass import (
    multiclass_hinge_loss,
    multiclass_perceptron_loss,
    multiclass_sparsemax_loss,
)
from overbar.losses.poly import poly_loss_cross_entropy
from overbar.losses.ranking import ranking_softmax_loss
from overbar.losses.regression import huber_loss, l2_loss, log_cosh, squared_error
from overbar.losses.segmentation import binary_dice_loss, dice_loss, multiclass_generalized_dice_loss
from overbar.losses.smoothing import smooth_labels

__all__ = [
    "binary_dice_loss",
    "convex_kl_divergence",
    "cosine_distance",
    "cosine_similarity",
    "ctc_loss",
    "ctc_loss_with_forward_probs",
    "dice_loss",
    "generalized_kl_divergence",
    "hinge_loss",
    "huber_loss",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "l2_loss",
    "linear_cross_entropy",
    "log_cosh",
    "make_fenchel_young_loss",
    "multiclass_generalized_dice_loss",
    "multiclass_hinge_loss",
    "multiclass_perceptron_loss",
    "multiclass_sparsemax_loss",
    "ntxent",
    "perceptron_loss",
    "poly_loss_cross_entropy",
    "ranking_softmax_loss",
    "safe_softmax_cross_entropy",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "smooth_labels",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "sparsemax_loss",
    "squared_error",
    "triplet_margin_loss",
]
