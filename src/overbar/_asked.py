"""Which bars are asked for, and what of the residuals they need.

`jax.grad` asks for the bars of some inputs: of the logits and not of the labels, of the weights and
not of the first layer's x. A plain custom_vjp keeps what forward hands over and works out all bars all
the same. Here a residual that no asked bar depends on is not kept, and then the bars that nobody asked
for are not worked out either, as with autodiff. A rule's own forward and backward see nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from overbar._adapter import run_for, used_inputs, zeros_of
from overbar._contract import is_float

Bars = Callable[[Any, Any], tuple[Any, ...]]  # (residuals, y_bar) -> a pytree of bars for each input


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Kept:
    """What goes from forward to backward: the residuals' values, and beside them, known while tracing
    and costing no memory, all the rest.

    Attributes:
      leaves: the leaves of the residuals that are kept.
      left_out: (place, type) of each leaf that is not.
      tree: the structure of the residuals.
      inputs: the shapes and dtypes of the inputs, one pytree an input.
      asked: whether the bar is asked for, leaf by leaf of the inputs.
    """

    leaves: tuple[Any, ...]
    left_out: tuple[tuple[int, Any], ...]
    tree: Any
    inputs: tuple[Any, ...]
    asked: tuple[bool, ...]

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        specs, tree = jax.tree.flatten(self.inputs)
        return self.leaves, (self.left_out, self.tree, tuple(specs), tree, self.asked)

    @classmethod
    def tree_unflatten(cls, aux: Any, children: tuple[Any, ...]) -> Kept:
        left_out, tree, specs, inputs, asked = aux
        return cls(tuple(children), left_out, tree, jax.tree.unflatten(inputs, specs), asked)

    def residuals(self) -> Any:
        """The residuals with zeros for what is left out."""
        leaves = list(self.leaves)
        for place, kind in self.left_out:
            leaves.insert(place, zeros_of(kind))
        return jax.tree.unflatten(self.tree, leaves)


def asked_inputs(inputs: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[bool, ...]]:
    """What a forward gets under symbolic_zeros -> (the inputs, whether a bar is asked for, leaf by leaf)."""
    leaves, tree = jax.tree.flatten(inputs, is_leaf=lambda x: isinstance(x, CustomVJPPrimal))
    asked = tuple(bool(leaf.perturbed and is_float(jax.typeof(leaf.value))) for leaf in leaves)
    return jax.tree.unflatten(tree, [leaf.value for leaf in leaves]), asked


def keep(residuals: Any, y: Any, inputs: tuple[Any, ...], asked: tuple[bool, ...], bars: Bars) -> Kept:
    """What backward will need of the residuals, to be seen by tracing it.

    Args:
      residuals, y: as forward gave them.
      inputs: the shapes and dtypes of the inputs.
      asked: whether the bar is asked for, leaf by leaf of the inputs.
      bars: the whole backward.
    """
    leaves, tree = jax.tree.flatten(residuals)
    used = [True] * len(leaves)
    if asked != tuple(map(is_float, jax.tree.leaves(inputs))):

        def backward(leaves: list[Any]) -> list[Any]:
            return _chosen(bars(jax.tree.unflatten(tree, leaves), jax.tree.map(_like_bar, y)), inputs, asked)

        used = used_inputs(jax.make_jaxpr(backward)(leaves), [True] * sum(asked))
    # A PRNG key is small and has no zeros.
    used = [u or not isinstance(leaf.dtype, np.dtype) for u, leaf in zip(used, leaves, strict=True)]
    left_out = tuple((i, jax.typeof(leaf)) for i, leaf in enumerate(leaves) if not used[i])
    kept = tuple(leaf for leaf, u in zip(leaves, used, strict=True) if u)
    return Kept(kept, left_out, tree, inputs, asked)


def asked_bars(kept: Kept, y_bar: Any, bars: Bars) -> tuple[Any, ...]:
    """The bars; where something was left out, None for those that nobody asked for."""
    if not kept.left_out:
        return bars(kept.residuals(), y_bar)
    program = jax.make_jaxpr(lambda: _chosen(bars(kept.residuals(), y_bar), kept.inputs, kept.asked))()
    found = iter(run_for(program, [True] * sum(kept.asked)))
    flat = [next(found) if a else None for a in kept.asked]
    return tuple(jax.tree.unflatten(jax.tree.structure(kept.inputs), flat))


def whole_bar(y_bar: Any) -> Any:
    """ȳ with zeros for what JAX knows to be zero, such as the bar of an output that is not used."""

    def whole(bar: Any) -> Any:
        return zeros_of(bar.aval) if isinstance(bar, SymbolicZero) else bar

    return jax.tree.map(whole, y_bar, is_leaf=lambda x: isinstance(x, SymbolicZero))


def _like_bar(y: Any) -> Any:
    """Something of the type of an output's bar; the output itself, unless it is an integer."""
    return y if is_float(y) else np.zeros(y.shape, jax.dtypes.float0)


def _chosen(bars: tuple[Any, ...], inputs: tuple[Any, ...], asked: tuple[bool, ...]) -> list[Any]:
    """The bars that are asked for, leaf by leaf."""
    flat: list[Any] = []
    for bar, want in zip(bars, inputs, strict=True):
        specs, tree = jax.tree.flatten(want)
        flat += [None] * len(specs) if bar is None else tree.flatten_up_to(bar)  # type: ignore[attr-defined]
    return [bar for bar, a in zip(flat, asked, strict=True) if a]
