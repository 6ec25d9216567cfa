"""Rules under `optax.losses`' names and signatures."""

from overbar.losses.classification import (
    safe_softmax_cross_entropy,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from overbar.losses.contrastive import ntxent, triplet_margin_loss
from overbar.losses.ctc import ctc_loss, ctc_loss_with_forward_probs
from overbar.losses.fenchel_young import make_fenchel_young_loss
from overbar.losses.fused import linear_cross_entropy
from overbar.losses.multiclass import (
    multiclass_hinge_loss,
    multiclass_perceptron_loss,
    multiclass_sparsemax_loss,
)
from overbar.losses.ranking import ranking_softmax_loss
from overbar.losses.regression import l2_loss, squared_error

__all__ = [
    "ctc_loss",
    "ctc_loss_with_forward_probs",
    "l2_loss",
    "linear_cross_entropy",
    "make_fenchel_young_loss",
    "multiclass_hinge_loss",
    "multiclass_perceptron_loss",
    "multiclass_sparsemax_loss",
    "ntxent",
    "ranking_softmax_loss",
    "safe_softmax_cross_entropy",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "squared_error",
    "triplet_margin_loss",
]
