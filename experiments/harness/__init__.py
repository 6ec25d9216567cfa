"""What the experiments share: flags, the run folder, data, the loop that trains, and the picture's paper.

A script makes a `parser` or a `training_parser`, adds its own flags, and hands an experiment to `launch`,
which gives it a `Run` to write into. What is trained is a `Task`; `train` trains it.
"""

from harness import stops  # first, so that Ctrl-C while the others are imported is one line
from harness.descent import Diverged, State, descend, select
from harness.figures import BLUE, GREEN, GREY, ORANGE, VERMILION, draw_losses, draw_scores, paper, tidy
from harness.flags import (
    BadSetting,
    add_lambda,
    add_learning_rate,
    count,
    not_negative,
    parser,
    positive,
    seed,
    training_parser,
)
from harness.progress import PLAIN_LINES, Reporter
from harness.runs import Run, launch
from harness.tasks import Task, Trained, classification, weights
from harness.training import draw, launch_training, train

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PLAIN_LINES",
    "VERMILION",
    "BadSetting",
    "Diverged",
    "Reporter",
    "Run",
    "State",
    "Task",
    "Trained",
    "add_lambda",
    "add_learning_rate",
    "classification",
    "count",
    "descend",
    "draw",
    "draw_losses",
    "draw_scores",
    "launch",
    "launch_training",
    "not_negative",
    "paper",
    "parser",
    "positive",
    "seed",
    "select",
    "stops",
    "tidy",
    "train",
    "training_parser",
    "weights",
]
