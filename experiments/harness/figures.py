"""The paper that the experiments draw on, and the curves that all of them draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which stay apart for colour-blind eyes.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"

SMOOTHED = 500  # losses from which on their running mean is drawn over them


def paper(width: float, height: float) -> Figure:
    """An empty figure, in inches. Made without pyplot it is drawn by Agg, and needs no display."""
    from matplotlib.figure import Figure  # slow to import, and not needed for --help

    return Figure(figsize=(width, height), layout="constrained")


def draw_losses(axes: Any, losses: Sequence[float], title: str) -> None:
    """Draws the loss curve, on a logarithmic scale."""
    axes.plot(losses, color=BLUE, linewidth=1.6)
    axes.set(title=title, xlabel="step", ylabel="loss", yscale=_scale(losses))
    tidy(axes)


def draw_scores(figure: Figure, lines: Sequence[Mapping[str, Any]]) -> None:
    """Draws what metrics.jsonl tells: the losses, and beside them every score that was measured."""
    names = sorted({name for line in lines for name in line} - {"step", "loss"})
    axes = np.atleast_1d(figure.subplots(1, 1 + len([n for n in names if n != "test_loss"])))
    losses = [line["loss"] for line in lines]
    axes[0].plot(
        losses, color=BLUE, linewidth=1.6, alpha=1 if len(losses) < SMOOTHED else 0.25, label="batch"
    )
    if len(losses) >= SMOOTHED:
        width = len(losses) // 50
        mean = np.convolve(losses, np.ones(width) / width, mode="valid")
        axes[0].plot(np.arange(len(mean)) + width / 2, mean, color=BLUE, linewidth=1.6, label="running mean")
    axes[0].set(title="loss", xlabel="step", yscale=_scale(losses))
    for name, place in zip(names, _places(names, axes), strict=True):
        measured = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        place.plot(*zip(*measured, strict=True), "o-", color=VERMILION, markersize=3, label=name)
        if place is not axes[0]:
            place.set(title=name.replace("_", " "), xlabel="step")
    if "test_loss" in names or len(losses) >= SMOOTHED:
        axes[0].legend(frameon=False)
    for one in axes:
        tidy(one)


def _scale(losses: Sequence[float]) -> str:
    """Logarithmic, where a loss has a logarithm."""
    return "log" if any(loss > 0 for loss in losses) else "linear"


def _places(names: Sequence[str], axes: Any) -> list[Any]:
    """Where each score is drawn: the test's loss among the losses, each other one by itself."""
    rest = iter(axes[1:])
    return [axes[0] if name == "test_loss" else next(rest) for name in names]


def tidy(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
