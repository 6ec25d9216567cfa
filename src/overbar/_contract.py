"""What a caller, a forward and a backward owe: the checks that `Rule` makes while they are traced.

`jax.custom_vjp` looks at the shape of a returned cotangent only. Here everything is looked at that
can be known without values: which residuals and bars are there, their structure, shapes and dtypes.
The checks cost tracing time and leave nothing in the compiled program.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class RuleError(TypeError, ValueError):
    """A rule was declared, called or written wrongly; the message names rule, input and what came.

    Both a TypeError and a ValueError, as what it stands in for is: `optax.losses` raises one for a
    dtype and the other for a shape.
    """


def spec(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of one array, tracer, key or Python number."""
    aval = jax.typeof(leaf)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def specs_of(tree: Any) -> Any:
    """The pytree of shapes and dtypes of a pytree of arrays."""
    return jax.tree.map(spec, tree)


def as_arrays(tree: Any) -> Any:
    """The same pytree, its numbers and NumPy arrays made JAX's: under jax.grad they arrive as passed.

    Raises:
      TypeError: a leaf can be no array.
    """

    def array(x: Any) -> Any:
        nothing = getattr(x, "dtype", None) == jax.dtypes.float0  # the bar of an integer: NumPy's only
        return x if isinstance(x, jax.Array) or nothing else jnp.asarray(x)

    return jax.tree.map(array, tree)


def is_float(leaf: Any) -> bool:
    """Whether a leaf can have a bar: float or complex, no integer, boolean or PRNG key."""
    return jnp.issubdtype(leaf.dtype, np.inexact)


def has_floats(tree: Any) -> bool:
    """Whether any leaf can have a bar."""
    return any(map(is_float, jax.tree.leaves(tree)))


def describe(tree: Any) -> str:
    """How a value is named in an error: float32[3,4] for an array, a pytree with these for leaves."""

    def leaf(value: Any) -> _Text:
        if isinstance(value, jax.ShapeDtypeStruct | jax.Array | np.ndarray | np.generic):
            return _Text(f"{value.dtype}[{','.join(map(str, value.shape))}]")
        return _Text(f"the {type(value).__name__} {value!r}")

    return repr(jax.tree.map(leaf, tree))


class _Text(str):
    """Text that is shown without quotes inside a container."""

    __slots__ = ()
    __repr__ = str.__str__


def check_option(rule: str, name: str, value: Any) -> Any:
    """Returns the value of a static option, or refuses what is no hashable Python value.

    Lists are taken for tuples and NumPy's numbers for Python's, as JAX takes them: axis=[0, 1], np.int64(1).
    """
    if any(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(value)):
        raise RuleError(
            f"rule {rule}: option {name} must be a static Python value, but came as {describe(value)}. "
            "Pass a Python value, such as x.item() outside of jit."
        )
    value = _plain(value)
    try:
        hash(value)
    except TypeError:
        raise RuleError(
            f"rule {rule}: option {name} must be hashable, but came as the {type(value).__name__} {value!r}. "
            "Pass numbers, strings, or tuples of them."
        ) from None
    return value


def _plain(value: Any) -> Any:
    if type(value) in (list, tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def check_input(rule: str, name: str, value: Any, *, array: bool, bar: bool, integers: bool = False) -> Any:
    """Returns an input with its leaves made arrays, or refuses it.

    Args:
      rule, name: the rule's and the input's name, for the errors.
      value: what the caller passed.
      array: whether it must be one array.
      bar: whether a bar is declared for it: then it must be float, otherwise it must not.
      integers: whether with a bar declared it may come as integers all the same.
    """
    leaves, tree = jax.tree.flatten(value)
    if array and not jax.tree_util.treedef_is_leaf(tree):
        raise RuleError(
            f"rule {rule}: input {name} must be one array, but came as the "
            f"{type(value).__name__} {describe(value)}."
        )
    try:
        arrays = [leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf) for leaf in leaves]
    except (TypeError, ValueError):
        raise RuleError(
            f"rule {rule}: input {name} must be an array, but came as {describe(value)}."
        ) from None
    floats = any(map(is_float, arrays))
    came = describe(jax.tree.unflatten(tree, arrays))
    if bar and leaves and not floats and not integers:
        raise RuleError(
            f"rule {rule}: input {name} must be float, since it has a bar, but came as {came}. "
            "Nothing is cast silently: pass floats."
        )
    if floats and not bar:
        raise RuleError(
            f"rule {rule}: input {name} came as {came}, but must be integers, booleans or keys, since no bar "
            "is declared for it. Cast it, or, where the rule is yours, declare its bar."
        )
    return jax.tree.unflatten(tree, arrays)


def check_forward(
    rule: str, result: Any, expected: Any, residuals: tuple[str, ...]
) -> tuple[Any, dict[str, Any]]:
    """Returns (y, residuals) as forward gave them, or refuses them.

    Args:
      rule: the rule's name, for the errors.
      result: what forward returned.
      expected: what the primal returns, as shapes and dtypes.
      residuals: the declared names.
    """
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise RuleError(
            f"rule {rule}: forward must return (y, {{residual: value}}), but returned {describe(result)}."
        )
    y, kept = result
    if unknown := [n for n in kept if n not in residuals]:
        raise RuleError(
            f"rule {rule}: forward returned the undeclared residual "
            f"{', '.join(f'{n} ({describe(kept[n])})' for n in unknown)}; declared are {list(residuals)}."
        )
    if absent := [n for n in residuals if n not in kept]:
        raise RuleError(
            f"rule {rule}: forward did not return the declared residual {', '.join(absent)}; "
            "return None for one that is not kept this time."
        )
    if specs_of(y) != specs_of(expected):
        raise RuleError(
            f"rule {rule}: forward returned {describe(y)} for y, but the primal returns {describe(expected)}."
        )
    return y, {n: _residual(rule, n, kept[n]) for n in residuals}


def _residual(rule: str, name: str, value: Any) -> Any:
    try:
        return as_arrays(value)
    except TypeError:
        raise RuleError(
            f"rule {rule}: residual {name} must hold arrays only, but is {describe(value)}. "
            "Backward knows shapes and dtypes from the bar and the other residuals, and gets the options."
        ) from None


def check_bars(
    rule: str, bars: Any, inputs: Mapping[str, Any], integers: Collection[str] = ()
) -> tuple[Any, ...]:
    """Returns the bars in the order of the inputs, None for what has none, or refuses them.

    Args:
      rule: the rule's name, for the errors.
      bars: what backward returned.
      inputs: input name -> its pytree of shapes and dtypes.
      integers: the inputs whose bar is dropped where they came as integers.
    """
    if not isinstance(bars, dict):
        raise RuleError(f"rule {rule}: backward must return {{input: bar}}, but returned {describe(bars)}.")
    if unknown := [n for n in bars if n not in inputs]:
        raise RuleError(
            f"rule {rule}: backward returned a bar for the unknown input "
            f"{', '.join(f'{n} ({describe(bars[n])})' for n in unknown)}; the inputs are {list(inputs)}."
        )
    bars = {n: bar for n, bar in bars.items() if n not in integers or has_floats(inputs[n])}
    return tuple(_check_input(rule, name, bars, want) for name, want in inputs.items())


def _check_input(rule: str, name: str, bars: dict[str, Any], want: Any) -> Any:
    """The bar of one input; integers and keys get theirs (float0) by way of None."""
    bar = bars.get(name)
    if want is None:
        return None  # an optional input that was left out: backward need not ask, its bar is dropped
    if not has_floats(want):
        if not _is_nothing(bar):
            raise RuleError(
                f"rule {rule}: backward returned {describe(bar)} as the bar of input {name}, which is "
                f"{describe(want)} and has none; leave it out or return None."
            )
        return None
    if name not in bars:
        raise RuleError(
            f"rule {rule}: missing bar: backward returned none for input {name}, which is {describe(want)}."
        )
    if bar is None:
        raise RuleError(_none(rule, name, want))
    paths, tree = jax.tree_util.tree_flatten_with_path(want)
    try:
        got = tree.flatten_up_to(bar)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise RuleError(
            f"rule {rule}: the bar of input {name} has the structure {describe(bar)}, "
            f"but the input is {describe(want)}."
        ) from None
    leaves = [
        _check_leaf(rule, name + jax.tree_util.keystr(path), leaf, leaf_want)
        for (path, leaf_want), leaf in zip(paths, got, strict=True)
    ]
    return jax.tree.unflatten(tree, leaves)


def _check_leaf(rule: str, where: str, got: Any, want: jax.ShapeDtypeStruct) -> Any:
    if not is_float(want):
        if not _is_nothing(got):
            raise RuleError(
                f"rule {rule}: backward returned {describe(got)} as the bar of input {where}, which is "
                f"{describe(want)} and has none; return None."
            )
        return None
    if got is None:
        raise RuleError(_none(rule, where, want))
    if type(got) in (int, float) and want.shape == ():
        return jnp.asarray(got, want.dtype)  # a Python number has no dtype of its own
    # A NumPy array is taken at its word: JAX would see its float64 as a float32.
    if getattr(got, "shape", None) != want.shape or got.dtype != want.dtype:
        raise RuleError(
            f"rule {rule}: the bar of input {where} is {describe(got)}, but the input is {describe(want)}; "
            "a bar has its input's shape and dtype."
        )
    return jnp.asarray(got)


def _is_nothing(bar: Any) -> bool:
    """Whether this stands for the bar of an integer or a key: None, or JAX's own float0."""
    return all(getattr(leaf, "dtype", None) == jax.dtypes.float0 for leaf in jax.tree.leaves(bar))


def _none(rule: str, where: str, want: Any) -> str:
    return (
        f"rule {rule}: backward returned None as the bar of input {where}, which is {describe(want)}; "
        "return zeros if the bar is zero."
    )
