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

from overbar._adapter import explicit_sharding, run_for, run_placed, used_inputs, zeros_of
from overbar._contract import is_float, spec

Bars = Callable[[Any, Any], tuple[Any, ...]]  # (residuals, y_bar) -> a pytree of bars for each input


@dataclass(frozen=True)
class Inputs:
    """What backward knows of the inputs without keeping them, leaf by leaf.

    Attributes:
      tree: their structure, one pytree an input.
      leaves: shapes and dtypes.
      asked: whether the bar is asked for.
      shardings: on a mesh with explicit axes the sharding that is part of the type, elsewhere None.
    """

    tree: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    asked: tuple[bool, ...]
    shardings: tuple[Any, ...]

    def specs(self) -> tuple[Any, ...]:
        """The shapes and dtypes, one pytree an input."""
        return tuple(jax.tree.unflatten(self.tree, self.leaves))

    def chosen(self, bars: tuple[Any, ...]) -> list[Any]:
        """Of bars, one pytree an input with None for what has none, the leaves that are asked for."""
        flat: list[Any] = []
        for bar, want in zip(bars, self.specs(), strict=True):
            specs, tree = jax.tree.flatten(want)
            flat += [None] * len(specs) if bar is None else tree.flatten_up_to(bar)  # type: ignore[attr-defined]
        return [bar for bar, asked in zip(flat, self.asked, strict=True) if asked]

    def restored(self, chosen: list[Any]) -> tuple[Any, ...]:
        """One pytree an input again, with None for what nobody asked for."""
        bars = iter(chosen)
        return tuple(jax.tree.unflatten(self.tree, [next(bars) if a else None for a in self.asked]))

    def run(self, bars: Bars, residuals: Any, y_bar: Any) -> list[Any]:
        """The bars that are asked for, each with its input's sharding."""
        shardings = [s for s, asked in zip(self.shardings, self.asked, strict=True) if asked]
        return run_placed(lambda r, y: self.chosen(bars(r, y)), (residuals, y_bar), shardings)


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Kept:
    """What goes from forward to backward: the residuals' values, and beside them, known while tracing
    and costing no memory, all the rest.

    Attributes:
      leaves: the leaves of the residuals that are kept.
      left_out: (place, type) of each leaf that is not.
      tree: the structure of the residuals.
      inputs: what is known of the inputs.
    """

    leaves: tuple[Any, ...]
    left_out: tuple[tuple[int, Any], ...]
    tree: Any
    inputs: Inputs

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        return self.leaves, (self.left_out, self.tree, self.inputs)

    @classmethod
    def tree_unflatten(cls, aux: Any, children: tuple[Any, ...]) -> Kept:
        return cls(tuple(children), *aux)

    def residuals(self) -> Any:
        """The residuals with zeros for what is left out."""
        leaves = list(self.leaves)
        for place, kind in self.left_out:
            leaves.insert(place, zeros_of(kind))
        return jax.tree.unflatten(self.tree, leaves)


def asked_inputs(perturbed: tuple[Any, ...]) -> tuple[tuple[Any, ...], Inputs]:
    """The inputs, as a forward gets them under symbolic_zeros -> their values, and what is known of them."""
    leaves, tree = jax.tree.flatten(perturbed, is_leaf=lambda x: isinstance(x, CustomVJPPrimal))
    values = [leaf.value for leaf in leaves]
    specs = tuple(map(spec, values))
    asked = tuple(bool(leaf.perturbed) and is_float(s) for leaf, s in zip(leaves, specs, strict=True))
    return jax.tree.unflatten(tree, values), Inputs(tree, specs, asked, tuple(map(explicit_sharding, values)))


def keep(residuals: Any, y: Any, inputs: Inputs, bars: Bars) -> Kept:
    """What backward will need of the residuals, to be seen by tracing it.

    Args:
      residuals, y: as forward gave them.
      inputs: what is known of the inputs.
      bars: the whole backward.
    """
    leaves, tree = jax.tree.flatten(residuals)
    used = [True] * len(leaves)
    if inputs.asked != tuple(map(is_float, inputs.leaves)):
        y_bar = jax.tree.map(_like_bar, y)
        program = jax.make_jaxpr(lambda leaves: inputs.run(bars, jax.tree.unflatten(tree, leaves), y_bar))
        used = used_inputs(program(leaves), [True] * sum(inputs.asked))
    # A PRNG key is small and has no zeros.
    used = [u or not isinstance(leaf.dtype, np.dtype) for u, leaf in zip(used, leaves, strict=True)]
    left_out = tuple((i, jax.typeof(leaf)) for i, leaf in enumerate(leaves) if not used[i])
    return Kept(tuple(leaf for leaf, u in zip(leaves, used, strict=True) if u), left_out, tree, inputs)


def asked_bars(kept: Kept, y_bar: Any, bars: Bars) -> tuple[Any, ...]:
    """The bars, one pytree an input, with None for those that nobody asked for."""
    inputs = kept.inputs
    if not kept.left_out:
        return inputs.restored(inputs.run(bars, kept.residuals(), y_bar))
    program = jax.make_jaxpr(lambda: inputs.run(bars, kept.residuals(), y_bar))()
    return inputs.restored(run_for(program, [True] * sum(inputs.asked)))


def whole_bar(y_bar: Any) -> Any:
    """ȳ with zeros for what JAX knows to be zero, such as the bar of an output that is not used."""

    def whole(bar: Any) -> Any:
        return zeros_of(bar.aval) if isinstance(bar, SymbolicZero) else bar

    return jax.tree.map(whole, y_bar, is_leaf=lambda x: isinstance(x, SymbolicZero))


def _like_bar(y: Any) -> Any:
    """Something of the type of an output's bar; the output itself, unless it is an integer."""
    return y if is_float(y) else np.zeros(y.shape, jax.dtypes.float0)
