"""The usual causes of a value or a message that is NaN or infinite."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from overbar._adapter import custom_jvp_body, custom_vjp_body, opened, source_of
from overbar.graph.model import Message, Node

WHERE = "put a harmless value in before the operation, jnp.where(ok, x, 1.0), not after it"
_ARC = {"asin": "arcsin", "acos": "arccos", "acosh": "arccosh", "atanh": "arctanh"}


# ---------------------------------------------------------------------- forward


def of_value(node: Node, what: str) -> str | None:
    """Why an operation gave NaN or infinity, by its own arguments."""
    if not node.eqns:
        return None
    name = node.primitives[-1]
    operands = _operands(node)
    floats = [x for x in operands if x.dtype.kind in "fc"]
    if not floats:
        return None
    with np.errstate(all="ignore"):
        if any(np.any(np.isnan(x)) for x in floats):
            return "NaN is written there as a number"
        return _of_operands(name, floats, node, what)


def _operands(node: Node) -> list[np.ndarray[Any, Any]]:
    """The last equation's arguments, numbers that are written in the program included."""
    values = dict(zip(node.operands[0], (p.value for p in node.parents), strict=True))
    found = []
    for v in node.eqns[-1].invars:
        value = values.get(v) if not hasattr(v, "val") else v.val
        if value is None or jnp.issubdtype(getattr(value, "dtype", float), jax.dtypes.prng_key):
            continue
        array = np.asarray(value)
        if array.dtype.kind == "V":  # bfloat16 and the narrow floats
            array = array.astype(np.float64)
        found.append(
            array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
            if array.dtype.kind in "fc"
            else array
        )
    return found


def _of_operands(name: str, floats: Sequence[Any], node: Node, what: str) -> str | None:
    x, infinite = floats[0], any(np.any(np.isinf(v)) for v in floats)
    dtype = node.dtype
    match name:
        case "log" | "log2" | "log1p":
            zero = -1 if name == "log1p" else 0
            return "log of 0" if np.any(x == zero) else None if infinite else "log of a negative number"
        case "sqrt" | "rsqrt":
            return (
                "a root of a negative number"
                if np.any(x < 0)
                else "division by 0"
                if np.any(x == 0)
                else None
            )
        case "cbrt":
            return None
        case "exp" | "exp2" | "expm1":
            limit = np.log(float(jnp.finfo(dtype).max)) / (np.log(2) if name == "exp2" else 1)
            return f"overflow of exp: it takes at most {limit:.1f} in {dtype}"
        case "cosh" | "sinh":
            return f"overflow of {name}: it grows as exp does"
        case "asin" | "acos":
            return f"{_ARC[name]} of a number beyond −1 to 1" if np.any(np.abs(x) > 1) else None
        case "atanh":
            return "arctanh at ±1" if np.any(np.abs(x) == 1) else "arctanh of a number beyond −1 to 1"
        case "acosh":
            return "arccosh of a number below 1" if np.any(x < 1) else None
        case "lgamma" | "digamma":
            return "a pole of the gamma function: 0, −1, −2, ..."
        case "div" | "rem":
            return _of_division(floats, node, infinite)
        case "mul" | "dot_general":
            if what == "NaN":
                return "0 · inf" if infinite else None if name == "mul" else "inf − inf, after an overflow"
            return None if infinite else f"overflow of {dtype}"
        case "add" | "sub" | "reduce_sum" | "cumsum" | "add_any":
            if not infinite:
                return f"overflow of {dtype}"
            if what == "NaN" and name == "sub" and any(_is_a_maximum(p) for p in node.parents):
                return (
                    "a row that is all −inf, masked altogether: its largest is −inf, and −inf − (−inf) is NaN"
                )
            return "inf − inf" if what == "NaN" else None
        case "pow" | "integer_pow" | "square" | "reduce_prod" | "cumprod":
            if what == "NaN":
                return "a root of a negative number" if np.any(x < 0) else None
            at_zero = name.endswith("pow") and bool(np.any(x == 0))
            return "0 to a negative power" if at_zero else f"overflow of {dtype}"
        case "convert_element_type" | "reduce_precision":
            return f"overflow of {dtype}: it holds at most {float(jnp.finfo(dtype).max):.4g}"
        case "reduce_max" | "max" | "argmax":
            return "a row that is all −inf, masked altogether: its largest is −inf" if infinite else None
        case "reduce_min":
            return "a minimum of inf alone" if infinite else None
        case "cholesky":
            return "a Cholesky factor of a matrix that is not positive definite"
        case "lu" | "triangular_solve" | "custom_linear_solve":
            return "a singular matrix"
    return None


def _of_division(floats: Sequence[Any], node: Node, infinite: bool) -> str | None:
    above, below = floats[0], floats[-1]
    if len(floats) < 2 or not np.any(below == 0):
        return "inf / inf" if infinite else f"overflow of {node.dtype}"
    both = np.broadcast_arrays(above, below) if above.ndim == below.ndim or not below.ndim else None
    if both is not None and np.any((both[0] == 0) & (both[1] == 0)):
        return "0 / 0"
    return "division by 0"


def _is_a_maximum(node: Node) -> bool:
    """Whether a value is some array's largest entry, perhaps broadcast."""
    while node.primitives and node.primitives[-1] in (
        "broadcast_in_dim", "stop_gradient", "reshape", "max", "convert_element_type",
    ):  # fmt: skip
        if not node.parents:
            return False
        node = node.parents[0]
    return bool(node.primitives) and node.primitives[-1] in ("reduce_max", "argmax")


def beside(cause: str | None, node: Node) -> str | None:
    """The cause, with what where makes of it when it does not select the value."""
    if not behind_where(node):
        return cause
    told = "where does not select it, but on the way back its bar is 0, and 0 · inf is NaN: " + WHERE
    return f"{cause}; {told}" if cause else told


# ---------------------------------------------------------------------- backward


def of_message(message: Message) -> str | None:
    """Why a message is NaN or infinite that was sent with a finite bar."""
    node = message.source
    bars = jax.tree.leaves(node.bar)
    stopped = any(bool(jnp.any(b == 0)) for b in bars)
    if stopped and behind_where(node):
        return f"the unselected branch of where: its bar is 0, and 0 · inf is NaN; {WHERE}"
    product = ", its bar is 0, and 0 · inf is NaN" if stopped else ""
    return _of_derivative(node, message, product) or ("overflow" if _overflows(node) else None)


def _of_derivative(node: Node, message: Message, product: str) -> str | None:
    if not node.eqns:
        return None
    name, eqn = node.primitives[-1], node.eqns[-1]
    if (body := custom_vjp_body(eqn)) is not None:
        return f"the backward written for {source_of(body).split(' at ')[0]} gives it"
    if (named := custom_jvp_body(eqn)) is not None:
        return f"the derivative written for {named[0]} gives it"
    floats = [x for x in _operands(node) if x.dtype.kind in "fc"]
    x = np.asarray(message.target.value).astype(complex) if not message.target.several else np.zeros(())
    zero = bool(np.any(x == 0))
    match name:
        case "sqrt" | "rsqrt" | "cbrt" if zero:
            if any("reduce_sum" in p.primitives for p in node.parents):
                return "norm at 0: its slope is 0 / 0"
            return f"{name} at 0: its slope is infinite{product}"
        case "log" | "log2" if zero:
            return f"log at 0: its slope is infinite{product}"
        case "log1p" if np.any(x == -1):
            return f"log at 0: its slope is infinite{product}"
        case "asin" | "acos" | "acosh" | "atanh" if np.any(np.abs(x) == 1):
            return f"{_ARC[name]} at ±1: its slope is infinite{product}"
        case "div" if np.any(floats[-1] == 0):
            return "division by 0"
        case "pow" | "integer_pow" if any(np.any(v == 0) for v in floats):
            return f"a power at 0: its slope is infinite{product}"
        case "atan2" if all(np.any(v == 0) for v in floats):
            return "arctan2 at (0, 0): its slope is 0 / 0"
        case "eigh" | "eig":
            return "eigenvalues that are equal: the slope of the eigenvectors divides by their difference"
        case "svd":
            return "singular values that are equal or 0: the slope divides by their difference"
        case "mul" | "dot_general" if not all(np.all(np.isfinite(v)) for v in floats):
            return "0 · inf"
    return None


def _overflows(node: Node) -> bool:
    """Whether a bar is so large that the next product leaves the range of the dtype."""
    bars = [b for b in jax.tree.leaves(node.bar) if b.size]
    return any(float(jnp.max(jnp.abs(b))) > float(jnp.finfo(b.dtype).max) ** 0.5 for b in bars)


def behind_where(node: Node) -> bool:
    """Whether what the node sends on goes through a selection."""
    waiting, seen = [node], {node}
    while waiting:
        for child in node.graph._children(waiting.pop()):
            if "select_n" in child.primitives or any(_selects(eqn) for eqn in child.eqns):
                return True
            if child not in seen:
                seen.add(child)
                waiting.append(child)
    return False


def _selects(eqn: Any) -> bool:
    body = eqn.params.get("jaxpr")
    held = opened(body)[0].eqns if eqn.primitive.name in ("jit", "pjit") and body is not None else []
    return any(e.primitive.name == "select_n" for e in held)


def in_words(cause: str | None, operation: str) -> str | None:
    """The cause inside a function of JAX's own, in the terms of that function."""
    if cause == "0 / 0" and re.search(r"\b(var|std)\(", operation):
        return "0 / 0: a variance of no more elements than ddof"
    if cause == "log of 0" and "logsumexp(" in operation:
        return "log of 0: logsumexp of a row that is all −inf"
    if cause is not None and cause.startswith("sqrt at 0") and re.search(r"\bstd\(", operation):
        return f"std of entries that are all equal: {cause}"
    if cause in ("division by 0", "0 / 0") and re.search(r"\bmean\(", operation):
        return f"{cause}: a mean of no elements"
    return cause
