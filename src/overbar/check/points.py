"""Other arguments than the sample's: a bug that the sample does not show may show there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from overbar.check.problem import Arrays, Problem, is_complex, is_key, is_whole, random_like
from overbar.check.structure import conforming

LARGE = 259  # more than people's blocks and tables of a sample's size
MOST_STATIC = 4  # Python values that are changed, one at a time; each costs a compilation


def other_values(problem: Problem, rng: np.random.Generator, near: bool) -> Iterator[tuple[str, Arrays]]:
    """Other numbers of the same shapes, those near the sample first.

    Args:
      near: only such as lie near it (for a function with a loop that may never end elsewhere).
    """
    xs = [np.asarray(x) for x in problem.inputs]
    kinds = [conforming(x, len(xs) == 1) for x in xs]
    keeps, free = [keep for _, keep in kinds], [name == "" for name, _ in kinds]

    def made(change: Callable[[np.ndarray], Any]) -> Arrays:
        with np.errstate(all="ignore"):
            new = [keep(np.asarray(change(x)).astype(x.dtype)) for x, keep in zip(xs, keeps, strict=True)]
        # What is infinite in the sample (a mask of −∞) stays.
        return [np.where(np.isfinite(widely(x)), n, x).astype(x.dtype) for n, x in zip(new, xs, strict=True)]

    def scaled(size: float) -> Arrays:
        """New random numbers; a number that stands alone is a parameter and stays near its own size."""
        return made(lambda x: size * _normal(x, rng) if x.size > 1 else x * rng.uniform(0.3, 1.7))

    yield "the sample moved by a tenth", made(lambda x: x * (1 + 0.1 * _normal(x, rng)))
    yield "numbers between the sample's smallest and largest", made(lambda x: _between(x, rng))
    if near:
        return
    if all(free):
        yield (
            "the sample shuffled",
            made(lambda x: rng.choice(x.ravel(), x.shape, replace=False) if x.size else x),
        )
        yield "the sample negated", made(lambda x: -x)
        yield "the sample with other signs", made(lambda x: x * rng.choice([-1, 1], x.shape))
    yield "new random numbers", scaled(1)
    yield "positive random numbers", made(lambda x: np.abs(_normal(x, rng) if x.size > 1 else x))
    yield "the sample moved by 3000", made(lambda x: x + 3000 if x.size > 1 else x)
    for size in (10, 100, 1e3, 1e-3, 1e-6):
        yield f"random numbers of size {size:g}", scaled(size)
    yield "numbers of every magnitude", made(lambda x: _normal(x, rng) * 10 ** rng.uniform(-5, 3, x.shape))
    yield "rounded random numbers, with ties and zeros", made(lambda x: np.round(2 * _normal(x, rng)))
    for value in (0.0, -0.0, 1.0):
        yield f"{value:g} everywhere", made(functools.partial(np.full_like, fill_value=value))
    for i, name in enumerate(problem.names):
        for scale in (1.7, -0.6, 0.0):
            if free[i] and (scale or xs[i].size > 1):
                yield (
                    f"{name} times {scale}",
                    [np.asarray(scale * x).astype(x.dtype) if i == j else x for j, x in enumerate(xs)],
                )
        if free[i] and xs[i].size and not is_complex(xs[i]):
            for value in (np.inf, -np.inf):
                with_one = np.array(xs[i])
                with_one.flat[0] = value
                yield f"{value} in {name}", [with_one if i == j else x for j, x in enumerate(xs)]


def _normal(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    wide = np.zeros(x.shape, np.complex128 if is_complex(x) else np.float64)
    return np.asarray(random_like([wide], rng)[0])


def _between(x: np.ndarray, rng: np.random.Generator) -> Any:
    if is_complex(x) or not x.size:
        return x
    wide = bounded(x)
    return rng.uniform(np.min(wide), np.max(wide), x.shape)


def other_arguments(
    problem: Problem, run: Callable[[list[Any]], Arrays], rng: np.random.Generator
) -> Iterator[tuple[str, list[Any]]]:
    """Other integers, truth values, keys and Python values in the place of those that have no bar.

    Args:
      run: the function's outputs at such other leaves, by which an index is seen to be in range.
    """
    leaves = problem.others
    whole = [i for i in problem.static if is_whole(leaves[i]) and np.size(leaves[i])]
    keys = [i for i in problem.static if is_key(leaves[i])]

    def changed(places: list[int], change: Callable[[Any], Any]) -> list[Any]:
        new = [change(leaf) if i in places else leaf for i, leaf in enumerate(leaves)]
        return [jnp.asarray(leaf) if is_whole(leaf) else leaf for leaf in new]

    if keys:
        yield "another key", changed(keys, _other_key)
    if whole:
        yield "the integers shuffled and repeated", changed(whole, lambda x: rng.choice(np.ravel(x), x.shape))
        yield "one integer everywhere", changed(whole, lambda x: np.full_like(x, np.ravel(x)[0]))
    for i in whole:
        if not jnp.issubdtype(leaves[i].dtype, jnp.bool_):
            for value in _extremes(problem, i, run):
                yield (
                    f"{value} among {problem.other_names[i]}",
                    changed([i], functools.partial(_with_first, value=value)),
                )
        else:
            yield f"{problem.other_names[i]} inverted", changed([i], lambda x: ~np.asarray(x))
    tried = 0
    for i in problem.static:
        for value in _others_of(leaves[i]):
            if tried < MOST_STATIC:
                tried += 1
                yield (
                    f"{problem.other_names[i]} = {value!r}",
                    changed([i], functools.partial(_replaced, value)),
                )


def _other_key(key: Any) -> Any:
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return jax.vmap(lambda k: jax.random.fold_in(k, 7))(key.ravel()).reshape(key.shape)
    return np.asarray(key) + np.uint32(7)


def _replaced(value: Any, _: Any) -> Any:
    return value


def _with_first(x: Any, value: int) -> np.ndarray:
    new = np.array(x)
    new.flat[0] = value
    return new


def _extremes(problem: Problem, place: int, run: Callable[[list[Any]], Arrays]) -> list[int]:
    """The least and the largest index, where they are in range.

    An index out of range gives what its neighbour gives, or NaN; the output tells.
    """

    def outputs(value: int) -> Arrays | None:
        leaves = list(problem.others)
        leaves[place] = _with_first(leaves[place], value)
        try:
            found = run(leaves)
        except Exception:
            return None
        return found if all(np.isfinite(np.asarray(y, np.complex128)).all() for y in found) else None

    def same(a: Arrays | None, b: Arrays | None) -> bool:
        if a is None or b is None:
            return True
        return all(p.shape == q.shape and np.array_equal(p, q) for p, q in zip(a, b, strict=True))

    sizes = {n for x in problem.inputs for n in np.shape(x) if n > 2}
    if len(sizes) > 3 or not sizes:
        return []
    found = []
    for n in sorted(sizes):
        last = outputs(n - 1)
        if n - 1 not in np.asarray(problem.others[place]) and not same(last, outputs(n - 2)):
            found.append(n - 1)
    if 0 not in np.asarray(problem.others[place]) and not same(outputs(0), outputs(1)):
        found.append(0)
    return found[:2]


def _others_of(leaf: Any) -> list[Any]:
    """Another Python value of the same kind."""
    if isinstance(leaf, bool):
        return [not leaf]
    if isinstance(leaf, int):
        return [leaf + 1]
    if isinstance(leaf, float):
        return [leaf * 1.7]
    return []


def other_shapes(problem: Problem, rng: np.random.Generator) -> Iterator[tuple[str, str, Problem]]:
    """(label, kind, problem): sizes that are equal in the sample are changed together.

    The kinds: "size", another size; "large", one much larger; "one", a size made or no longer 1; "empty";
    "axis", one more leading axis.
    """
    whole = [i for i in problem.static if is_whole(problem.others[i])]
    arrays = [*map(np.asarray, problem.inputs), *(np.asarray(problem.others[i]) for i in whole)]
    sizes = sorted({n for x in arrays for n in np.shape(x)})

    def remade(new_shape: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Problem:
        return _remade(problem, new_shape, rng)

    for size in [n for n in sizes if n > 1]:
        yield f"sizes of {size} made {size + 1}", "size", remade(_to(size, size + 1))
    if sizes and max(sizes) > 1 and sum(x.size for x in arrays) * LARGE <= 40_000 * max(sizes):
        yield f"sizes of {max(sizes)} made {LARGE}", "large", remade(_to(max(sizes), LARGE))
    for size in [n for n in sizes if n > 1]:
        yield f"sizes of {size} made 1", "one", remade(_to(size, 1))
    if 0 in sizes:
        yield "sizes of 0 made 3", "one", remade(_to(0, 3))
    if 1 in sizes:
        yield "sizes of 1 made 3", "one", remade(_to(1, 3))
    if not sizes:
        yield "vectors for numbers", "axis", remade(lambda shape: (3,))
        return
    more = next(n for n in (2, 3, 5, 7, 11) if n not in sizes)
    largest = max((x.ndim for x in arrays), default=0)
    yield (
        "one more leading axis",
        "axis",
        remade(lambda shape: (more, *shape) if len(shape) == largest else shape),
    )
    if len({x.ndim for x in arrays if x.ndim}) > 1:
        yield (
            "one more leading axis of every array",
            "axis",
            remade(lambda shape: (more, *shape) if shape else shape),
        )
    for size in [n for n in sizes if n > 1][:2]:
        yield f"sizes of {size} made 0", "empty", remade(_to(size, 0))


def resized(problem: Problem, size: int, other: int, rng: np.random.Generator) -> Problem:
    """The problem with all the sizes that are one number made another."""
    return _remade(problem, _to(size, other), rng)


def _to(size: int, other: int) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
    return lambda shape: tuple(other if n == size else n for n in shape)


def _remade(
    problem: Problem, new_shape: Callable[[tuple[int, ...]], tuple[int, ...]], rng: np.random.Generator
) -> Problem:
    inputs = [_refilled(np.asarray(x), new_shape(np.shape(x)), rng) for x in problem.inputs]
    others = list(problem.others)
    for i in problem.static:
        if is_whole(others[i]):
            x = np.asarray(others[i])
            shape = new_shape(x.shape)
            others[i] = jnp.asarray(np.resize(x, shape) if x.size else np.zeros(shape, x.dtype))
    return problem.with_others(inputs, others)


def _refilled(x: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Numbers of the sample's sizes and kind in another shape."""
    if not x.size:
        return _normal(np.zeros(shape, x.dtype), rng).astype(x.dtype)
    name, keep = conforming(x)
    if name in ("one-hot", "a mask or labels"):
        return (
            keep(_normal(np.resize(x, shape), rng).astype(x.dtype))
            if 0 not in shape
            else np.zeros(shape, x.dtype)
        )
    size = np.abs(bounded(x)).mean()
    new = np.resize(bounded(x), shape) + 0.1 * size * _normal(np.zeros(shape, bounded(x).dtype), rng)
    if name and 0 not in shape and _fits(shape, x.shape):
        return keep(new.astype(x.dtype))
    return new.astype(x.dtype)


def _fits(shape: tuple[int, ...], sample: tuple[int, ...]) -> bool:
    """Whether a structured array of another shape still can have its structure."""
    return len(shape) == len(sample) and (
        len(shape) < 2 or (shape[-1] == shape[-2]) == (sample[-1] == sample[-2])
    )


def widely(x: np.ndarray) -> np.ndarray:
    return x.astype(np.complex128 if is_complex(x) else np.float64)


def bounded(x: np.ndarray) -> np.ndarray:
    wide = widely(x)
    return np.where(np.isfinite(wide), wide, 1.0)
