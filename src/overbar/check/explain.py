"""A difference made a finding, with its likely cause and the smallest input that shows it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from overbar.check import bounds
from overbar.check.cause import fits, likely_cause
from overbar.check.excuses import excused
from overbar.check.oracle import compiled
from overbar.check.problem import Arrays, Problem, is_whole
from overbar.check.report import Finding
from overbar.check.setting import Compared, Setting, compare_bars
from overbar.check.terms import term_at_fault

MOST_SUBSTITUTIONS = 60
IN_A_REGION = (
    "the sign",
    "the bar is all zero",
    "a region",
    "overflow",
    "precision",
    "a constant factor of 1.",
)


def finding_of(
    setting: Setting, check: str, compared: Compared, at: str, sample: Problem | None = None
) -> Finding:
    """The finding that the worst difference makes.

    Args:
      at: where it shows, as the end of a sentence.
      sample: the user's own arguments, where these are others.
    """
    k, i = compared.worst
    difference = compared.differences[k][i]
    name = setting.problem.names[i]
    cause = _cause(setting, compared, i)
    if check == "shapes" and sample is not None:
        cause = _hard_coded(at, cause)
    elif check == "arguments":
        cause = _of_arguments(at, cause)
    elif check == "values" and (cause is None or cause.startswith(IN_A_REGION)):
        cause = f"a region of the input: right on the sample, wrong {at}" + (f" ({cause})" if cause else "")
    example = smallest(setting, compared) if check in ("values", "shapes", "arguments") else ""
    return Finding(
        check,
        f"the bar of {name} is wrong {at}",
        input=name,
        where=difference.index,
        got=difference.got,
        expected=difference.expected,
        cause=cause,
        example=example,
    )


def _cause(setting: Setting, compared: Compared, i: int) -> str | None:
    names, oracle = setting.problem.names, setting.oracle
    outputs = oracle.candidate.outputs(compared.inputs)
    sizes = {n: np.shape(x) for n, x in zip(names, compared.inputs, strict=True)}
    sizes |= {f"output {number}": np.shape(y) for number, y in enumerate(outputs)}
    known = {n: bounds.wide(x) for n, x in zip(names, compared.inputs, strict=True)}
    known |= {f"output {number}": bounds.wide(y) for number, y in enumerate(outputs)}
    got = [row[i] for row in compared.got]
    expected = {n: [row[j] for row in compared.expected] for j, n in enumerate(names)}
    plain = likely_cause(names[i], got, expected, sizes, known)
    if plain is not None and not plain.startswith(("a region", "permuted")):
        return plain
    for search in (
        _of_other_cotangents,
        _of_one_term,
        _of_mixed_residuals,
        _of_repeated_indices,
        _of_options,
    ):
        try:
            found = search(setting, compared, i)
        except Exception:
            continue  # the search does not apply to such a function
        if found is not None:
            return found
    return plain


def _of_other_cotangents(setting: Setting, compared: Compared, i: int) -> str | None:
    """The wrong bar is the right one of other incoming bars: one ignored, two swapped, the first row only."""
    got = [row[i] for row in compared.got]
    for explanation, change in _changed_cotangents(compared.y_bars[0]):
        try:
            want = [
                bounds.wide(setting.oracle.truth.bars(compared.inputs, change(b))[i]) for b in compared.y_bars
            ]
        except Exception:
            continue
        if fits(got, want) and any(w.any() for w in want):
            return explanation
    return None


def _changed_cotangents(like: Arrays) -> Iterator[tuple[str, Any]]:
    for out in range(len(like)) if len(like) > 1 else ():
        yield (
            f"the bar of output {out} is ignored",
            lambda bars, out=out: [np.zeros_like(b) if j == out else b for j, b in enumerate(bars)],
        )
        yield (
            f"the sign of the bar of output {out}",
            lambda bars, out=out: [-b if j == out else b for j, b in enumerate(bars)],
        )
    for out in range(len(like)) if len(like) > 2 else ():
        yield (
            f"only the bar of output {out} is used, those of the others are ignored",
            lambda bars, out=out: [b if j == out else np.zeros_like(b) for j, b in enumerate(bars)],
        )
    for a, b in itertools.combinations(range(len(like)), 2):
        if like[a].shape == like[b].shape:

            def swapped(bars: Arrays, a: int = a, b: int = b) -> Arrays:
                bars = list(bars)
                bars[a], bars[b] = bars[b], bars[a]
                return bars

            yield f"swapped: the bars of outputs {a} and {b}", swapped

    def row(bars: Arrays, keep: int) -> Arrays:
        kept = [np.zeros_like(b) for b in bars]
        for new, b in zip(kept, bars, strict=True):
            if b.ndim:
                new[keep] = b[keep]
        return kept

    if any(b.ndim and b.shape[0] > 1 for b in like):
        yield "only the first row of the batch is used", lambda bars: row(bars, 0)
        yield "only the last row of the batch is used", lambda bars: row(bars, -1)
    for axis in range(max((b.ndim for b in like), default=0)):
        yield (
            f"the incoming bar is averaged over axis {axis}",
            lambda bars, axis=axis: [
                np.broadcast_to(b.mean(axis, keepdims=True), b.shape) if b.ndim > axis else b for b in bars
            ],
        )
        yield (
            f"the incoming bar is reversed along axis {axis}",
            lambda bars, axis=axis: [np.flip(b, axis) if b.ndim > axis else b for b in bars],
        )
    if all(b.ndim >= 2 and b.shape[-1] == b.shape[-2] for b in like):
        yield "the incoming bar is transposed", lambda bars: [np.swapaxes(b, -1, -2) for b in bars]
    if any(np.iscomplexobj(b) for b in like):
        yield (
            "the conjugate is missing, or one too many: of the incoming bar",
            lambda bars: [np.conj(b) for b in bars],
        )


def _of_one_term(setting: Setting, compared: Compared, i: int) -> str | None:
    if setting.oracle.by_columns:
        return None
    return term_at_fault(setting.oracle.truth, compared.inputs, compared.y_bars, compared.got, i)


def _of_mixed_residuals(setting: Setting, compared: Compared, i: int) -> str | None:
    """The backward is right once another array stands in the place of one of its residuals."""
    side = setting.oracle.candidate
    y = side.outputs(compared.inputs)
    wide = list(side.call(lambda xs: list(xs), compared.inputs))
    names = {f"the input {n}": x for n, x in zip(setting.problem.names, wide, strict=True)}
    names |= {f"output {number}" if len(y) > 1 else "the output": v for number, v in enumerate(y)}
    held: list[Any] = []

    def keep(xs: Arrays) -> Arrays:
        leaves, tree = jax.tree.flatten(jax.vjp(side.function, *xs)[1])
        held[:] = [tree]
        return leaves

    leaves = side.call(keep, compared.inputs)
    pull = compiled(lambda leaves, bars: list(jax.tree.unflatten(held[0], leaves)(bars)))
    want = [row[i] for row in compared.expected]
    for described, changed in itertools.islice(_substitutions(leaves, names), MOST_SUBSTITUTIONS):
        got = [bounds.wide(side.call(pull, changed, bars)[i]) for bars in compared.y_bars]
        if fits(got, want):
            return described
    return None


def _of_repeated_indices(setting: Setting, compared: Compared, i: int) -> str | None:
    """Wrong in exactly the rows that an integer input names more than once."""
    bad = np.any([compared.outside(k, i) for k in range(len(compared.got))], axis=0)
    rows = {int(r) for r in np.nonzero(bad)[0]} if bad.ndim else set()
    for name, leaf in setting.problem.arguments():
        if is_whole(leaf) and rows:
            numbers, counts = np.unique(np.asarray(leaf), return_counts=True)
            if rows == {int(n) for n, c in zip(numbers, counts, strict=True) if c > 1}:
                return f"repeated indices: what several {name} send to one row is overwritten, not added up"
    return None


def _of_options(setting: Setting, compared: Compared, i: int) -> str | None:
    """The bar is right for another value of an option: it stands hard-coded in the backward."""
    problem, got = setting.problem, [row[i] for row in compared.got]
    for place in problem.static:
        value = problem.others[place]
        if not isinstance(value, int | bool) or not -4 < value < 5:
            continue
        for other in [not value] if isinstance(value, bool) else [n for n in (-1, 0, 1, 2, -2) if n != value]:
            leaves = [other if j == place else leaf for j, leaf in enumerate(problem.others)]
            try:
                truth = setting.oracle.at(problem.with_others(compared.inputs, leaves)).truth
                want = [bounds.wide(truth.bars(compared.inputs, b)[i]) for b in compared.y_bars]
            except Exception:
                continue
            if fits(got, want):
                name = problem.other_names[place]
                what = "an axis" if "ax" in name or "dim" in name else "an option"
                return f"{what} is hard-coded: this is the bar for {name} = {other!r}, not {value!r}"
    return None


def _of_arguments(at: str, cause: str | None) -> str:
    """Right with the sample's other arguments, wrong with others."""
    told = f" ({cause})" if cause else ""
    if "repeated" in at or "one integer" in at:
        return (
            f"repeated indices: right for the sample's integers, wrong {at}: overwritten, not added up?{told}"
        )
    if "key" in at:
        return f"the key: right for the sample's, wrong {at}: random numbers are redrawn or frozen{told}"
    if "inverted" in at:
        return f"a mask is ignored: right for the sample's, wrong {at}{told}"
    if " among " in at:
        return f"an index: right for the sample's, wrong {at}{told}"
    what = "an axis" if "ax" in at or "dim" in at else "an option"
    return f"{what} is hard-coded or ignored: right for the sample's value, wrong {at}{told}"


def _substitutions(leaves: Arrays, names: dict[str, Any]) -> Iterator[tuple[str, Arrays]]:
    def called(x: Any) -> str:
        return next((n for n, v in names.items() if _equal(x, v)), "a residual")

    for place, leaf in enumerate(leaves):
        for name, value in names.items():
            if np.shape(value) == leaf.shape and value.dtype == leaf.dtype and not _equal(value, leaf):
                new = [value if j == place else x for j, x in enumerate(leaves)]
                yield (
                    f"residual mixed up: the backward is right with {name} in the place of {called(leaf)}",
                    new,
                )
    for place, leaf in enumerate(leaves):
        for text, other in _turned(leaf):
            if other.shape == leaf.shape and not _equal(other, leaf):
                new = [other if j == place else x for j, x in enumerate(leaves)]
                yield text.format(called(leaf)), new
    for a, b in itertools.combinations(range(len(leaves)), 2):
        same = leaves[a].shape == leaves[b].shape and leaves[a].dtype == leaves[b].dtype
        if same and not _equal(leaves[a], leaves[b]):
            new = list(leaves)
            new[a], new[b] = new[b], new[a]
            told = f"{called(leaves[a])} and {called(leaves[b])} exchanged"
            yield f"residual mixed up: the backward is right with {told}", new


def _turned(leaf: Any) -> Iterator[tuple[str, Any]]:
    """A residual as people forget to turn it."""
    if leaf.ndim >= 2:
        yield "transposed: the backward is right with {} transposed", np.swapaxes(leaf, -1, -2)
    if np.iscomplexobj(leaf):
        yield (
            "the conjugate is missing, or one too many: the backward is right with {} conjugated",
            np.conj(leaf),
        )
    for axis in range(leaf.ndim):
        yield f"reversed: the backward is right with {{}} flipped along axis {axis}", np.flip(leaf, axis)
    if leaf.ndim >= 2:
        turned = np.flip(leaf, (-1, -2))
        yield "reversed: the backward is right with {} flipped along its last two axes", turned
    if np.issubdtype(leaf.dtype, np.inexact):
        yield "the sign of a residual: the backward is right with minus {}", -leaf


def _equal(a: Any, b: Any) -> bool:
    return np.shape(a) == np.shape(b) and bool(np.array_equal(a, b))


def _hard_coded(at: str, cause: str | None) -> str:
    """Right on the sample and wrong in another shape: something of the sample's shape stands in the code."""
    if "leading axis" in at or "vectors for numbers" in at:
        return f"an axis is hard-coded: right on the sample's number of axes, wrong {at}"
    told = f" ({cause})" if cause else ""
    return f"a size of the sample is hard-coded: right on the sample's shape, wrong {at}{told}"


# ---------------------------------------------------------------------- the smallest input that shows it


def smallest(setting: Setting, compared: Compared) -> str:
    """Simpler numbers of the same shapes that still show the difference, as text."""
    inputs = [np.asarray(x) for x in compared.inputs]
    for number in range(len(inputs)):
        for simpler in _simpler(inputs[number], compared, number):
            trial = [simpler if j == number else x for j, x in enumerate(inputs)]
            if not np.array_equal(simpler, inputs[number]) and _still_wrong(setting, trial):
                inputs = trial
                break
    shown = [
        f"{name} = {_text(x)}"
        for name, x in setting.problem.with_inputs(inputs).arguments()
        if x is not None and not callable(x)
    ]
    return ", ".join(shown)


def _simpler(x: np.ndarray, compared: Compared, number: int) -> Iterator[np.ndarray]:
    """The plainest first: zeros, ones, the wrong entries alone, few digits."""
    if not x.size:
        return
    yield np.zeros_like(x)
    yield np.ones_like(x)
    outside = np.any([compared.outside(k, number) for k in range(len(compared.got))], axis=0)
    if outside.shape == x.shape and 0 < outside.sum() < x.size:
        for other in (0.0, 1.0):
            yield np.where(outside, _rounded(x), other).astype(x.dtype)
            yield np.where(outside, x, other).astype(x.dtype)
    first = np.zeros(x.shape, bool)
    first.flat[0] = True
    yield np.where(first, _rounded(x), 0).astype(x.dtype)
    yield _rounded(x)


def _rounded(x: np.ndarray) -> np.ndarray:
    """One significant digit."""
    if np.iscomplexobj(x):
        return x
    wide = bounds.wide(x)
    with np.errstate(all="ignore"):
        unit = 10.0 ** np.floor(np.log10(np.where(wide == 0, 1.0, np.abs(wide))))
        return np.where(np.isfinite(wide), np.round(wide / unit) * unit, wide).astype(x.dtype)


def _still_wrong(setting: Setting, inputs: Arrays) -> bool:
    try:
        compared = compare_bars(setting, inputs, 2)
        return compared.ratio > 1 and excused(setting, compared) is None
    except Exception:
        return False


def _text(x: Any) -> str:
    if isinstance(x, np.ndarray | jax.Array) and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        shape = f"{x.dtype}{list(x.shape)}"
        if x.size > 12:
            return shape
        return f"{np.array2string(np.asarray(x), precision=4, separator=', ')}".replace("\n", "")
    return str(x)
