"""A function with sample arguments, seen as what is differentiated: float arrays in, float arrays out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Arrays = list[Any]
Function = Callable[..., Arrays]  # float leaves -> float leaves


class CannotCheck(Exception):
    """The function, with these arguments, is nothing that a check could be made of; says why."""


class Problem:
    """f and its arguments, split into the float leaves that have bars and the rest, which stays.

    Attributes:
      f: the function as the user gave it.
      inputs: the float and complex leaves of the arguments, as NumPy arrays.
      names: where each of them stands, such as "args[0]['w']" or, by the parameter's name, "params['w']".
      others: the leaves that have no bar: integers, keys, Python values.
    """

    def __init__(
        self, f: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], names: Sequence[str]
    ):
        self.f = f
        paths, self._tree = jax.tree_util.tree_flatten_with_path((tuple(args), kwargs))
        leaves = [leaf for _, leaf in paths]
        self._places = [i for i, leaf in enumerate(leaves) if _is_float_array(leaf)]
        if not self._places:  # a function of Python numbers alone, as f(2.0)
            self._places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, float | complex)]
        if not self._places:
            raise CannotCheck("no argument is a float array, so that there is no bar to check")
        self.others = leaves
        self.inputs = [np.asarray(leaves[i]) for i in self._places]
        self.inputs = [_canonical(x) for x in self.inputs]
        self.names = [_name(paths[i][0], names) for i in self._places]

    def function(self, f: Callable[..., Any] | None = None) -> Function:
        """f, or another function of the same arguments, from the float leaves to the float leaves."""
        chosen = self.f if f is None else f

        def of_floats(*inputs: Any) -> Arrays:
            leaves = list(self.others)
            for place, x in zip(self._places, inputs, strict=True):
                leaves[place] = x
            args, kwargs = jax.tree.unflatten(self._tree, leaves)
            results = jax.tree.leaves(chosen(*args, **kwargs))
            return [y for y in results if _is_float_array(y)]

        return of_floats

    def with_inputs(self, inputs: Arrays) -> Problem:
        """The same problem at other float inputs."""
        other = object.__new__(Problem)
        other.__dict__.update(self.__dict__)
        other.inputs = [np.asarray(x) for x in inputs]
        return other

    def with_others(self, inputs: Arrays, others: list[Any]) -> Problem:
        """The same problem at other float inputs and other integers and keys."""
        other = self.with_inputs(inputs)
        other.others = others
        return other


def random_like(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    """Normal numbers of the shapes and dtypes given; complex where they are complex."""

    def draw(x: Any) -> Any:
        real = rng.normal(size=x.shape)
        if np.iscomplexobj(np.zeros(0, x.dtype)):
            return (real + 1j * rng.normal(size=x.shape)).astype(x.dtype)
        return real.astype(x.dtype)

    return [draw(x) for x in arrays]


def widened(x: Any) -> Any:
    """An array in float64, or complex128."""
    return jnp.asarray(x, jnp.complex128 if np.iscomplexobj(x) else jnp.float64)


def _canonical(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, jax.dtypes.canonicalize_dtype(x.dtype))


def _is_float_array(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return False
    return bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def _name(path: tuple[Any, ...], names: Sequence[str]) -> str:
    """The place of a leaf of (args, kwargs), with a parameter's own name where it is known."""
    which, first, *rest = path
    if which.idx == 0:
        head = names[first.idx] if first.idx < len(names) else f"args[{first.idx}]"
    else:
        head = first.key
    return head + jax.tree_util.keystr(tuple(rest))
