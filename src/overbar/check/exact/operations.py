"""Operations on whole arrays, by the name of their primitive; and what the types mean here."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from overbar.check.exact.axes import arg, cumlogsumexp, cumulative, reduction, sort, top_k
from overbar.check.exact.matrices import cholesky, dot_general, lu, triangular_solve
from overbar.check.exact.moves import gather, scatter
from overbar.check.exact.numbers import Array, NotExact, Numbers


def _is_float(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def is_wide(dtype: Any) -> bool:
    """float64 and complex128: what is computed with numbers."""
    return _is_float(dtype) and jnp.finfo(dtype).bits == 64


def is_narrow(dtype: Any) -> bool:
    return _is_float(dtype) and not is_wide(dtype)


def _convert(numbers: Numbers, params: dict[str, Any], x: Array) -> Array:
    new = params["new_dtype"]
    if _is_float(new):
        x = numbers.array(x)
        return numbers.filled(x.shape, (numbers.mp.mpc(v) for v in x.flat)) if is_complex(new) else x
    if x.dtype != object:
        return x.astype(new)
    if new == np.bool_:
        return x.astype(bool)
    least, most = np.iinfo(new).min, np.iinfo(new).max
    whole = [
        0 if v != v else int(numbers.clamp(numbers.mp.mpf(int(least)), v, numbers.mp.mpf(int(most))))
        for v in x.flat
    ]
    return np.array(whole, new).reshape(x.shape)


def is_complex(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.complexfloating)


def _reduce_precision(numbers: Numbers, params: dict[str, Any], x: Array) -> Array:
    if params["mantissa_bits"] < 52 or params["exponent_bits"] < 11:
        raise NotExact(f"it rounds to {params['mantissa_bits']} bits by itself")
    return x


WHOLE: dict[str, Callable[..., Any]] = {
    "convert_element_type": _convert,
    "reduce_precision": _reduce_precision,
    "gather": gather,
    "scatter": scatter(lambda n: lambda old, new: new),
    "scatter-add": scatter(lambda n: n.add),
    "scatter-sub": scatter(lambda n: n.sub),
    "scatter-mul": scatter(lambda n: n.mul),
    "scatter-min": scatter(lambda n: n.smaller),
    "scatter-max": scatter(lambda n: n.larger),
    "reduce_sum": reduction(lambda n, row: n.total(row)),
    "reduce_prod": reduction(lambda n, row: n.product(row)),
    "reduce_max": reduction(lambda n, row: functools.reduce(n.larger, row, -n.inf)),
    "reduce_min": reduction(lambda n, row: functools.reduce(n.smaller, row, n.inf)),
    "argmax": arg(operator.gt),
    "argmin": arg(operator.lt),
    "cumsum": cumulative(lambda n: n.add),
    "cumprod": cumulative(lambda n: n.mul),
    "cummax": cumulative(lambda n: n.larger),
    "cummin": cumulative(lambda n: n.smaller),
    "cumlogsumexp": cumlogsumexp,
    "sort": sort,
    "top_k": top_k,
    "dot_general": dot_general,
    "triangular_solve": triangular_solve,
    "cholesky": cholesky,
    "lu": lu,
}
