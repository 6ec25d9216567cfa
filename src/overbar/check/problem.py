"""A function with sample arguments, seen as what is differentiated: float arrays in, float arrays out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Arrays = list[Any]
Function = Callable[..., Arrays]  # float leaves -> float leaves
MOST_PYTHON_FLOATS = 4  # each is tried as an input of its own, which costs a trace


class CannotCheck(Exception):
    """The function, with these arguments, is nothing that a check could be made of; says why."""


class Problem:
    """f and its arguments, split into the float leaves that have bars and the rest, which stays.

    Attributes:
      f: the function as the user gave it.
      inputs: the float and complex leaves of the arguments, as NumPy arrays.
      names: where each of them stands, such as "args[0]['w']" or, by the parameter's name, "params['w']".
      soft: whether each was a Python number: a rule may take it for a constant and give it no bar.
      others: the leaves that have no bar: integers, keys, Python values.
      other_names: the same for all the leaves.
    """

    def __init__(
        self, f: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], names: Sequence[str]
    ):
        self.f = f
        paths, self._tree = jax.tree_util.tree_flatten_with_path((tuple(args), kwargs))
        self.others: list[Any] = [leaf for _, leaf in paths]
        self.other_names = [_name(path, names) for path, _ in paths]
        self._places = [i for i, leaf in enumerate(self.others) if is_float_array(leaf)]
        numbers = [i for i, leaf in enumerate(self.others) if isinstance(leaf, float | complex)]
        hard = set(self._places or numbers)
        if not hard:
            raise CannotCheck("no argument is a float array, so that there is no bar to check")
        if self._places:
            self._places = sorted([*hard, *self._traceable(numbers[:MOST_PYTHON_FLOATS])])
        else:
            self._places = numbers
        self.inputs = [self._array(i) for i in self._places]
        self.names = [self.other_names[i] for i in self._places]
        self.soft = [i not in hard for i in self._places]

    def _array(self, place: int) -> np.ndarray:
        leaf = self.others[place]
        if isinstance(leaf, float) and self._places:
            arrays = [self.others[i].dtype for i in self._places if is_float_array(self.others[i])]
            real = [d for d in arrays if jnp.issubdtype(d, jnp.floating)]
            return np.asarray(leaf, jax.dtypes.canonicalize_dtype(real[0] if real else float))
        leaf = np.asarray(leaf)
        return np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))

    def _traceable(self, numbers: list[int]) -> list[int]:
        """Which of the Python numbers the function also takes, and differentiates by, as arrays."""
        taken = []
        for place in numbers:
            trial = object.__new__(Problem)
            trial.__dict__.update(self.__dict__)
            trial._places = sorted([*self._places, place])
            inputs = [trial._array(i) for i in trial._places]
            try:
                bars_like = jax.eval_shape(lambda xs, trial=trial: jax.vjp(trial.function(), *xs)[0], inputs)
                plain = jax.eval_shape(self.function(), *[self._array(i) for i in self._places])
            except Exception:
                continue
            if [(y.shape, y.dtype) for y in bars_like] == [(y.shape, y.dtype) for y in plain]:
                taken.append(place)
        return taken

    def function(self, f: Callable[..., Any] | None = None) -> Function:
        """f, or another function of the same arguments, from the float leaves to the float leaves."""
        chosen = self.f if f is None else f
        others, places, tree = list(self.others), self._places, self._tree

        def of_floats(*inputs: Any) -> Arrays:
            leaves = list(others)
            for place, x in zip(places, inputs, strict=True):
                leaves[place] = x
            args, kwargs = jax.tree.unflatten(tree, leaves)
            results = jax.tree.leaves(chosen(*args, **kwargs))
            return [y for y in results if is_float_array(y)]

        return of_floats

    @property
    def static(self) -> list[int]:
        """The places of the leaves that are no inputs."""
        return [i for i in range(len(self.others)) if i not in self._places]

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

    def arguments(self) -> list[tuple[str, Any]]:
        """Every leaf with its name, for a report."""
        leaves = list(self.others)
        for place, x in zip(self._places, self.inputs, strict=True):
            leaves[place] = x
        return list(zip(self.other_names, leaves, strict=True))


def random_like(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    """Normal numbers of the shapes and dtypes given; complex where they are complex."""

    def draw(x: Any) -> Any:
        real = rng.normal(size=x.shape)
        if is_complex(x):
            return np.asarray(real + 1j * rng.normal(size=x.shape)).astype(x.dtype)
        return np.asarray(real).astype(x.dtype)

    return [draw(x) for x in arrays]


def is_complex(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.complexfloating))


def widened(x: Any) -> Any:
    """An array in float64, or complex128."""
    return jnp.asarray(x, jnp.complex128 if np.iscomplexobj(x) else jnp.float64)


def is_float_array(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return False
    return bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def is_key(leaf: Any) -> bool:
    """A PRNG key: typed, or raw (the two words of uint32 that JAX's default generator has)."""
    if not isinstance(leaf, jax.Array | np.ndarray):
        return False
    typed = bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
    return typed or (leaf.dtype == jnp.uint32 and leaf.shape[-1:] == (2,))


def is_whole(leaf: Any) -> bool:
    """An array of integers or truth values."""
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic) or is_key(leaf):
        return False
    return bool(jnp.issubdtype(leaf.dtype, jnp.integer) or jnp.issubdtype(leaf.dtype, jnp.bool_))


def _name(path: tuple[Any, ...], names: Sequence[str]) -> str:
    """The place of a leaf of (args, kwargs), with a parameter's own name where it is known."""
    which, first, *rest = path
    if which.idx == 0:
        head = names[first.idx] if first.idx < len(names) else f"args[{first.idx}]"
    else:
        head = first.key
    return head + jax.tree_util.keystr(tuple(rest))
