"""Other arguments than the sample's: a bug that the sample does not show may show there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from overbar.check.problem import Arrays, Problem, random_like


def other_values(problem: Problem, rng: np.random.Generator) -> Iterator[tuple[str, Arrays]]:
    xs = problem.inputs

    def all_inputs(label: str, change: Callable[[np.ndarray], np.ndarray]) -> tuple[str, Arrays]:
        return label, [change(np.array(x)).astype(x.dtype) for x in xs]

    yield all_inputs("the sample negated", lambda x: -x)
    yield all_inputs("the sample's sizes", np.abs)
    yield all_inputs("new random numbers", lambda x: _normal(x, rng))
    yield all_inputs("random numbers ten times as large", lambda x: 10 * _normal(x, rng))
    yield all_inputs("random numbers of size 1e-3", lambda x: 1e-3 * _normal(x, rng))
    yield all_inputs("rounded random numbers, with ties and zeros", lambda x: np.round(2 * _normal(x, rng)))
    yield all_inputs("zeros", np.zeros_like)
    yield all_inputs("ones", np.ones_like)
    for i, name in enumerate(problem.names):
        for scale in (1.7, -0.6):
            yield f"{name} times {scale}", [scale * x if i == j else x for j, x in enumerate(xs)]


def _normal(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(random_like([x], rng)[0])


def other_shapes(problem: Problem, rng: np.random.Generator) -> Iterator[tuple[str, Problem]]:
    arrays = [x for x in problem.others if isinstance(x, np.ndarray | jax.Array)]
    whole = [x for x in arrays if jnp.issubdtype(x.dtype, jnp.integer) or jnp.issubdtype(x.dtype, jnp.bool_)]
    sizes = sorted({n for x in [*problem.inputs, *whole] for n in np.shape(x)})
    for size in sizes:
        for other in sorted({1, size + 1} - {size}):

            def resized(x: np.ndarray, size: int = size, other: int = other) -> np.ndarray:
                for axis, n in enumerate(np.shape(x)):
                    if n == size:
                        x = np.take(x, np.arange(other) % max(n, 1), axis=axis) if n else np.zeros(0)
                return np.asarray(x)

            def fresh(x: np.ndarray) -> np.ndarray:
                new = resized(x)
                scale = np.abs(x).mean() if x.size else 1.0
                return (new + 0.1 * scale * _normal(new, rng)).astype(x.dtype)

            inputs = [fresh(x) for x in problem.inputs]
            others = [resized(np.asarray(x)) if any(x is w for w in whole) else x for x in problem.others]
            yield f"sizes of {size} made {other}", problem.with_others(inputs, others)
