"""The sample arguments of a function: what an ARG says, and the arrays it stands for."""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from overbar.cli.output import Refused, raised

MOST_ENTRIES = 2**28  # of one array; beyond, the system may end the process without a word

DTYPES = {
    "bool": "bool",
    "bf16": "bfloat16",
    **{f"f{n}": f"float{n}" for n in (16, 32, 64)},
    **{f"c{n}": f"complex{n}" for n in (64, 128)},
    **{f"i{n}": f"int{n}" for n in (8, 16, 32, 64)},
    **{f"u{n}": f"uint{n}" for n in (8, 16, 32, 64)},
}
WIDE = {"float64", "complex128", "int64", "uint64"}


@dataclass(frozen=True)
class Shape:
    """An array that is asked for: `i32[5]<10` is ("int32", (5,), 10)."""

    dtype: str
    shape: tuple[int, ...]
    below: int | None = None

    @property
    def kind(self) -> str:
        return self.dtype.rstrip("0123456789")


class Key:
    """A PRNG key that is asked for."""


@dataclass(frozen=True)
class Call:
    """The sample arguments of a function, as they are asked for or as they are."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def values(self) -> list[Any]:
        return [*self.args, *self.kwargs.values()]

    @property
    def wide(self) -> bool:
        """Whether an array of a 64-bit type is asked for."""
        return any(isinstance(value, Shape) and value.dtype in WIDE for value in self.values)


def asked(texts: Sequence[str]) -> Call:
    """What the ARGs say."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.strip().partition("=")
        if equals and name.isidentifier():
            if name in kwargs:
                raise Refused(f"the keyword {name} is given twice")
            kwargs[name] = _value(value)
        else:
            args.append(_value(text.strip()))
    return Call(tuple(args), kwargs)


def _value(text: str) -> Any:
    """What one ARG says: a shape, a key, or a Python literal.

    >>> _value("i32[2, 5]<10")
    Shape(dtype='int32', shape=(2, 5), below=10)
    >>> _value("0.5")
    0.5
    """
    if text == "key":
        return Key()
    if (found := re.fullmatch(r"([a-zA-Z]+\d*)\s*\[(.*)\]\s*(?:<\s*(.*))?", text)) is not None:
        return _shape(text, *found.groups())
    try:
        return float(text) if text.lstrip("+-") in ("inf", "nan") else ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        hint = f""" (a text is written "'{text}'")""" if text.isidentifier() else ""
        raise Refused(
            f"the argument {text!r} is no shape such as f32[8,16], no key and no Python literal{hint}"
        ) from error


def _shape(text: str, name: str, sizes: str, below: str | None) -> Shape:
    dtype = name if name in DTYPES.values() else DTYPES.get(name)
    if dtype is None:
        raise Refused(f"the argument {text!r} has an unknown dtype {name!r}; known are {', '.join(DTYPES)}")
    listed = [size.strip() for size in sizes.split(",")] if sizes.strip() else []
    if not all(re.fullmatch("[0-9]{1,12}", size) for size in listed):
        raise Refused(f"the argument {text!r} is no shape; write the sizes as in f32[8,16], or f32[]")
    shape = Shape(dtype, tuple(map(int, listed)), _below(text, below))
    if shape.below is None:
        return shape
    if shape.kind not in ("int", "uint"):
        raise Refused(f"the argument {text!r}: < is for integers")
    if shape.below > _most(dtype) + 1:
        raise Refused(f"the argument {text!r}: the largest {dtype} is {_most(dtype)}")
    return shape


def _below(text: str, below: str | None) -> int | None:
    if below is None:
        return None
    if not re.fullmatch("[0-9]{1,20}", below.strip()) or int(below) == 0:
        raise Refused(f"the argument {text!r}: after < stands a positive whole number, as in i32[5]<10")
    return int(below)


def _most(dtype: str) -> int:
    """The largest integer of a dtype, as far as NumPy draws them."""
    bits = int(dtype.lstrip("uint"))
    return int(2 ** (bits - (not dtype.startswith("u"))) - 1)


def filled(asked: Call, seed: int) -> Call:
    """The arguments with random numbers for the shapes."""
    import numpy as np

    rng = np.random.default_rng(seed)
    shapes = [value for value in asked.values if isinstance(value, Shape)]
    sizes = [size for s in shapes if s.kind in ("float", "bfloat", "complex") for size in s.shape if size]
    draw = functools.partial(_drawn, rng=rng, below=min(sizes, default=2), seed=seed)
    try:
        args = tuple(draw(value) for value in asked.args)
        return Call(args, {name: draw(value) for name, value in asked.kwargs.items()})
    except (MemoryError, ValueError) as error:  # more than there is, or than an array can have
        raise Refused(f"the arguments are too large: {raised(error)}") from error


def _drawn(value: Any, rng: Any, below: int, seed: int) -> Any:
    """An array for a shape; anything else stays."""
    import jax
    import jax.numpy as jnp

    if isinstance(value, Key):
        return jax.random.key(seed)
    if not isinstance(value, Shape):
        return value
    if math.prod(value.shape) > MOST_ENTRIES:
        raise Refused(f"the arguments are too large: an array of {math.prod(value.shape)} entries")
    if value.kind == "bool":
        return jnp.asarray(rng.integers(0, 2, value.shape), "bool")
    if value.kind in ("int", "uint"):
        most = value.below or min(below, _most(value.dtype))
        return jnp.asarray(rng.integers(0, most, value.shape, "uint64"), value.dtype)
    x = rng.normal(size=value.shape)
    return jnp.asarray(x + 1j * rng.normal(size=value.shape) if value.kind == "complex" else x, value.dtype)


def returned(sampler: Callable[..., Any]) -> Call:
    """The arguments that the function named by --args returns."""
    name = getattr(sampler, "__name__", "the function")
    try:
        sample = sampler()
    except (Exception, SystemExit) as error:
        raise Refused(f"--args: {name} raises {raised(error)}") from error
    if isinstance(sample, tuple) and len(sample) == 2 and _is_call(*sample):
        return Call(tuple(sample[0]), sample[1])
    if isinstance(sample, tuple):
        return Call(sample, {})
    if _is_call((), sample):
        return Call((), sample)
    wanted = "a tuple of positional arguments, (args, kwargs), or a dict of keywords"
    raise Refused(f"--args: {name} returned a {type(sample).__name__}, but must return {wanted}")


def _is_call(args: Any, kwargs: Any) -> bool:
    named = isinstance(kwargs, dict) and all(isinstance(name, str) for name in kwargs)
    return named and isinstance(args, tuple)


def own_sample(f: Callable[..., Any], seed: int) -> Call:
    """A rule's first sample that is not of a size for benchmarks."""
    import jax

    from overbar.rule import Rule

    if not isinstance(f, Rule) or "samples" not in f.parts:
        takes = ""
        with contextlib.suppress(TypeError, ValueError):
            takes = f" for {inspect.signature(f)}"
        raise Refused(f"no sample arguments are given{takes}; pass shapes such as f32[8,16], or --args")
    try:
        for sample in f.parts["samples"](jax.random.key(seed)):
            if "bench" not in sample.tags:
                return Call(tuple(sample.args), dict(sample.options))
    except Exception as error:
        raise Refused(f"its samples raise {raised(error)}") from error
    raise Refused("it has no sample but for benchmarks; pass shapes such as f32[8,16], or --args")
