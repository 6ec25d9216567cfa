"""How far a bar is from the truth, in units in the last place of float32.

The truth is mpmath's where the function is small enough, else the twin in float64. An elementwise
function is measured entry by entry over the whole range of float32; results below the smallest normal
number are left out, since the CPU flushes them to zero. Anything else is measured on the rule's own
samples, against the largest entry of the bar, or of ȳ where all of the bar is rounding: that of a sum
goes with its largest term.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import overbar
from overbar import Rule, Sample
from overbar.check.exact import NotExact, exact_bars

POINTS = 300
MOST = 150_000  # additions of one evaluation with mpmath
LEAST = 1e-4  # of the size of ȳ: a bar that is smaller throughout is what rounding has left of 0
TINY = float(np.finfo(np.float32).tiny)

Peers = Callable[[Rule[..., Any], Sample], Mapping[str, Any]]


def worst(peers: Peers, rule: Rule[..., Any], samples: Iterable[Sample], key: jax.Array) -> dict[str, float]:
    """The largest error of each peer's bars, by the peer's name, over all samples.

    None of what draws at random: a truth in float64 draws other numbers.
    """
    found: dict[str, float] = {}
    samples = [s for s in samples if jax.tree.leaves(s.args) and "kink" not in s.tags]
    several = next(s for s in samples if any(jnp.size(x) > 1 for x in jax.tree.leaves(s.args)))
    twin = peers(rule, several)["twin"]
    if "random_bits" in str(jax.make_jaxpr(twin.function)(twin.inputs)):
        return {}
    by_entry = is_elementwise(twin)
    if by_entry:
        samples = [swept(several, key)]
    for sample in samples:
        cases = dict(peers(rule, sample))
        cases.pop("reference", None)
        for name, error in errors(cases, by_entry, key).items():
            found[name] = max(found.get(name, 0.0), error)
    return found


def is_elementwise(twin: Any) -> bool:
    """Whether each entry of the one output depends on its own entry of the inputs only, and on numbers."""
    outputs = jax.eval_shape(twin.function, twin.inputs)
    shapes = {x.shape for x in twin.inputs} - {()}
    if len(outputs) != 1 or shapes != {outputs[0].shape} or not 2 <= outputs[0].size <= 64:
        return False
    jacobians = jax.jacrev(lambda xs: twin.function(xs)[0])(twin.inputs)
    size = outputs[0].size
    off = ~np.eye(size, dtype=bool)
    of_arrays = [j for j, x in zip(jacobians, twin.inputs, strict=True) if x.shape]
    return all(not np.any(np.asarray(j).reshape(size, size)[off]) for j in of_arrays)


def swept(sample: Sample, key: jax.Array) -> Sample:
    """The sample with numbers of both signs and all sizes for its first float array.

    Other arrays of that shape are made as long, of their own values; numbers stay.
    """
    exponents = np.linspace(-37.5, 38, POINTS // 2)
    dense = np.linspace(-110, 110, POINTS)
    x = np.concatenate([-(10.0**exponents), 10.0**exponents, dense]).astype(np.float32)
    rng = np.random.default_rng(int(jax.random.bits(key, dtype=np.uint32)))

    def drawn(like: jax.Array) -> jax.Array:
        values = np.asarray(like).ravel()
        return jnp.asarray(rng.choice(values, x.size).astype(like.dtype))

    args = list(sample.args)
    swept, *_ = [i for i, a in enumerate(args) if jnp.issubdtype(jnp.asarray(a).dtype, jnp.floating)]
    shape = jnp.shape(args[swept])
    alike = [drawn(a) if isinstance(a, jax.Array) and a.shape == shape else a for a in args]
    alike[swept] = jnp.asarray(x)
    return Sample("swept", tuple(alike), sample.options)


def errors(cases: Mapping[str, Any], by_entry: bool, key: jax.Array) -> dict[str, float]:
    inputs = [np.asarray(x) for x in cases["twin"].inputs]
    shapes = jax.eval_shape(cases["twin"].function, inputs)
    rng = np.random.default_rng(int(jax.random.bits(key, dtype=np.uint32)))
    y_bars = [rng.standard_normal(s.shape).astype(s.dtype) for s in shapes]
    if any(jnp.iscomplexobj(x) for x in (*inputs, *y_bars)):
        return {}
    truth = true_bars(cases["twin"].function, inputs, y_bars)
    # The bar of a number beside arrays is a sum, whose rounding is not an entry's.
    counts = [i for i, t in enumerate(truth) if not by_entry or np.ndim(t) == np.ndim(truth[0])]
    got = {name: bars(c.function, inputs, y_bars) for name, c in cases.items()}
    least = LEAST * max((np.max(np.abs(y_bar), initial=0.0) for y_bar in y_bars), default=0.0)
    return {
        name: distance([b[i] for i in counts], [truth[i] for i in counts], None if by_entry else least)
        for name, b in got.items()
    }


def bars(function: Callable[..., Any], inputs: Sequence[Any], y_bars: Sequence[Any]) -> list[Any]:
    def both(xs: Any, bars: Any) -> Any:
        return jax.vjp(function, xs)[1](bars)[0]

    return [np.asarray(b) for b in jax.jit(both)(list(inputs), list(y_bars))]


def true_bars(function: Callable[..., Any], inputs: Sequence[Any], y_bars: Sequence[Any]) -> list[Any]:
    plain = overbar.twin(lambda *xs: function(list(xs)))
    try:
        return exact_bars(plain, inputs, y_bars, most=MOST)
    except NotExact:
        with jax.enable_x64(True):
            wide = [[np.asarray(x, np.float64) for x in xs] for xs in (inputs, y_bars)]
            return bars(lambda xs: plain(*xs), *wide)


def distance(got: Sequence[Any], truth: Sequence[Any], least: float | None) -> float:
    """The largest error in ULP; infinite where a finite truth came out as inf or nan.

    In ULP of each entry, or, where a least size is given, of the largest one if it is no smaller.
    """
    largest = 0.0
    for g, t in zip(got, truth, strict=True):
        t = np.asarray(t, np.float64)
        size = np.abs(t)
        limit = float(np.finfo(np.float32).max)
        counts = np.isfinite(t) & (size <= limit) & ((size >= TINY) | (t == 0))
        if not counts.any():
            continue
        scale = size if least is None else np.full_like(size, max(size[counts].max(), least))
        ulp = np.spacing(np.maximum(scale, TINY).astype(np.float32), dtype=np.float32).astype(np.float64)
        with np.errstate(invalid="ignore"):
            error = np.where(np.isfinite(g), np.abs(np.asarray(g, np.float64) - t) / ulp, np.inf)
        largest = max(largest, float(error[counts].max()))
    return largest
