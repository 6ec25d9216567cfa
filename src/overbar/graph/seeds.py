"""The bars that backpropagation starts from: one for each output, or a sentence that says what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from overbar.graph.model import GraphError, Node, describe

if TYPE_CHECKING:
    from overbar.graph.graph import Graph


def seeds_of(graph: Graph, bar: Any) -> list[tuple[Node, Any]]:
    """The outputs, each with the bar that is given for it, checked."""
    if not graph.outputs:
        raise GraphError(f"{graph.name} returns no array, so that there is nothing to go back from.")
    if len(graph.outputs) == 1:
        if isinstance(bar, list | tuple) and len(jax.tree.leaves(bar)) > 1:  # an array, written as a list
            bar = np.asarray(bar)
        bars = [bar] if not isinstance(bar, tuple | list | dict) else jax.tree.leaves(bar)
    else:
        bars = jax.tree.leaves(bar, is_leaf=lambda x: x is None)
    if len(bars) != len(graph.outputs):
        names = ", ".join(f"{n.name} {describe(n)}" for n in graph.outputs)
        raise GraphError(
            f"{graph.name} returns {len(graph.outputs)} arrays ({names}), and a bar is needed for each: "
            "pass bar= a pytree as the function returns, with None for what counts for nothing."
        )
    seeds = []
    for output, given in zip(graph.outputs, bars, strict=True):
        if given is None or getattr(given, "dtype", None) == jax.dtypes.float0:
            continue
        seeds.append((output, _seed_of(graph, output, given)))
    return seeds


def _seed_of(graph: Graph, output: Node, given: Any) -> Any:
    if not output.is_float:
        raise GraphError(
            f"the output {output.name} of {graph.name} is {describe(output)}, not float: it has no bar."
        )
    if np.shape(given) != output.shape:
        came = f"a bar of shape {np.shape(given)} came"
        if isinstance(given, int) and given == 1:
            came = "none was given"
        raise GraphError(
            f"the output {output.name} of {graph.name} is {describe(output)}, no scalar: backprop "
            f"needs its bar, an array of shape {output.shape}, but {came}. Reduce it to a "
            "number, or pass bar=."
        )
    try:
        array = jnp.asarray(None if isinstance(given, str | bytes) else given)
        fits = jnp.issubdtype(array.dtype, jnp.number) and (
            not jnp.iscomplexobj(array) or jnp.issubdtype(output.dtype, jnp.complexfloating)
        )
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise GraphError(
            f"the bar of the output {output.name} of {graph.name} must be numbers of {output.dtype}, "
            f"but came {given!r}."
        )
    return array.astype(output.dtype)
