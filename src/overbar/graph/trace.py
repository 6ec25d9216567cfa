"""From a function and its arguments to a graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from overbar._adapter import calls_of, frames_of, opened, source_of
from overbar.graph.cones import bodies
from overbar.graph.graph import Graph, Level
from overbar.graph.model import GraphError
from overbar.graph.paths import argument_name
from overbar.graph.source import Home, Reader, line_of
from overbar.graph.symbols import is_word


def make_graph(f: Callable[..., Any], *, level: Level = "statement") -> Callable[..., Graph]:
    """Makes the computational graph of a function, as `jax.make_jaxpr` makes its jaxpr.

    Nodes are variables, named as in the source: arguments by their names (leaves of a pytree by their
    path, `params.w1`), intermediates by the variable they were assigned to. `z = w * x + b` is one node z.
    What has no name in the source is called v1, v2, ...

    Args:
      f: any function that `jax.jit` could trace. Loops, branches, jit and remat in it are nodes that
        open (`Node.inner`), rules are nodes of their own, functions it calls are groups.
      level: "statement", one node a statement (and what it uses twice), or "operation", one a primitive.

    Returns:
      A function of f's arguments that gives the `Graph`. Arrays and Python floats among them are the inputs,
      other Python values stay as they are, and a `jax.ShapeDtypeStruct` is an input without a value.

    Raises:
      GraphError: f is no function or no argument is float; the traced function has side effects, or its
        shapes or its control flow depend on values.

    >>> import jax, jax.numpy as jnp, overbar
    >>> def loss(w, b, x, t, lam=0.1):
    ...     z = w * x + b
    ...     y = jax.nn.sigmoid(z)
    ...     L = 0.5 * (y - t) ** 2
    ...     R = 0.5 * w**2
    ...     L_reg = L + lam * R
    ...     return L_reg
    >>> graph = overbar.make_graph(loss)(1.0, 0.5, 2.0, 1.0)
    >>> w_bar, b_bar, x_bar, t_bar = graph.backprop()
    >>> print(f"{w_bar:.4f} {jax.grad(loss)(1.0, 0.5, 2.0, 1.0):.4f}")
    0.0894 0.0894
    """
    if not callable(f):
        raise GraphError(f"make_graph takes a function, but came {f!r}.")
    if level not in ("statement", "operation"):
        raise GraphError(f'level must be "statement" or "operation", but came {level!r}.')

    @functools.wraps(f, updated=())
    def graph_of(*args: Any, **kwargs: Any) -> Graph:
        return _graph(f, level, args, kwargs)

    return graph_of


def _graph(f: Callable[..., Any], level: Level, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Graph:
    paths, tree = jax.tree_util.tree_flatten_with_path((args, kwargs))
    leaves = [leaf for _, leaf in paths]
    places = [i for i, leaf in enumerate(leaves) if _is_input(leaf)]
    names = [argument_name(f, args, kwargs, paths[i][0]) for i in places]
    title = _title(f)
    for i, name in zip(places, names, strict=True):
        leaf = leaves[i]
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) and leaf.is_deleted():
            raise GraphError(f"the argument {name} has been deleted: it was donated to another function.")
    specs = [
        leaves[i] if isinstance(leaves[i], jax.ShapeDtypeStruct) else jnp.asarray(leaves[i]) for i in places
    ]
    if not any(jnp.issubdtype(spec.dtype, jnp.inexact) for spec in specs):
        came = ", ".join(_described(leaf) for leaf in leaves) or "nothing"
        raise GraphError(
            f"{title} has no float input, so that there is nothing to differentiate: came {came}. "
            "Pass floats: 3.0 rather than 3, an array of a float dtype."
        )
    outputs: dict[str, Any] = {}

    def overbar_entry(*inputs: Any) -> list[Any]:
        filled = list(leaves)
        for i, value in zip(places, inputs, strict=True):
            filled[i] = value
        a, k = jax.tree.unflatten(tree, filled)
        results, outputs["tree"] = jax.tree.flatten(f(*a, **k))
        outputs["none"] = [not _is_output(r) for r in results]
        return [r for r in results if _is_output(r)]

    jaxpr, consts = opened(_traced(title, overbar_entry, specs))
    entry: Any = overbar_entry.__code__
    home = Home.of(f)
    jaxpr, consts, entry = _without_outer_jit(jaxpr, consts, entry, home)

    def unflatten(values: list[Any]) -> Any:
        given = iter(values)
        return jax.tree.unflatten(
            outputs["tree"], [None if none else next(given) for none in outputs["none"]]
        )

    def unflatten_bars(bars: list[Any]) -> Any:
        filled: list[Any] = [None] * len(leaves)
        for i, bar in zip(places, bars, strict=True):
            filled[i] = bar
        by_position, by_name = jax.tree.unflatten(tree, filled)
        return (*by_position, by_name) if by_name else by_position

    values = [None if isinstance(s, jax.ShapeDtypeStruct) else s for s in specs]
    reader = Reader(home, entry, title)
    return Graph(
        jaxpr,
        consts,
        list(zip(names, values, strict=True)),
        reader,
        level,
        unflatten=unflatten,
        unflatten_bars=unflatten_bars,
    )


def _traced(title: str, flat: Callable[..., Any], specs: list[Any]) -> Any:
    try:
        closed = jax.make_jaxpr(flat)(*specs)
    except (TypeError, IndexError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        if isinstance(error, jax.errors.TracerArrayConversionError):
            why, help = "NumPy is given a value in it", "Use jax.numpy in its place."
        elif isinstance(error, _OF_A_VALUE) or first.startswith(_AS_A_SIZE):
            why = "a shape, an index or a branch in it depends on a value"
            help = "Use jnp.where, jax.lax.cond or a size that is known, or pass that value as a Python int."
        else:
            raise
        raise GraphError(f"{title} cannot be traced{_raised_at(error)}: {why} ({first}). {help}") from error
    jaxpr = opened(closed)[0]
    if jaxpr.effects:
        made = ", ".join(dict.fromkeys(_effectful(jaxpr.eqns))) or ", ".join(map(str, jaxpr.effects))
        raise GraphError(
            f"{title} has side effects ({made}), which have no "
            "place in a graph whose nodes are evaluated one by one: take prints and callbacks out."
        )
    return closed


_OF_A_VALUE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerIntegerConversionError,
)


_AS_A_SIZE = ("Only integer scalar arrays can be converted", "Shapes must be 1D sequences of concrete values")


def _raised_at(error: BaseException) -> str:
    """The last line of the user's own that the error came through."""
    home, found, traceback = Home(), "", error.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if file in home:
            found = f" ({file}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    return found


def _effectful(eqns: Any) -> Iterator[str]:
    """What has the side effects, with its place in the source."""
    for eqn in eqns:
        if not eqn.effects:
            continue
        held = [e for body in bodies(eqn).values() for e in opened(body)[0].eqns if e.effects]
        if held:
            yield from _effectful(held)
            continue
        home = Home()
        lines = [
            f"{code.co_filename}:{line_of(code, at)}"
            for code, at in frames_of(eqn)
            if code.co_filename in home
        ]
        yield eqn.primitive.name + (f" at {lines[-1]}" if lines else "")


def _described(leaf: Any) -> str:
    if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
        dtype = "float0" if leaf.dtype == jax.dtypes.float0 else leaf.dtype
        return f"{dtype}[{','.join(map(str, leaf.shape))}]"
    return type(leaf).__name__


def _without_outer_jit(jaxpr: Any, consts: list[Any], entry: Any, home: Home) -> tuple[Any, list[Any], Any]:
    """The body of a function that is as a whole wrapped in jit or remat: its graph is the function's."""
    while len(jaxpr.eqns) == 1 and not consts and list(jaxpr.eqns[0].outvars) == list(jaxpr.outvars):
        eqn = jaxpr.eqns[0]
        body = calls_of(eqn)
        if body is None or list(eqn.invars) != list(jaxpr.invars):
            break
        codes = [code for code, _ in frames_of(eqn)]
        below = codes[codes.index(entry) + 1 :] if entry in codes else []
        if any(code.co_filename in home for code in below):
            break  # it is called in the function, not around it
        name, _, where = source_of(body).partition(" at ")
        file, _, line = where.rpartition(":")
        entry = (name, file, int(line)) if line.isdecimal() else entry
        jaxpr, consts = opened(body)
    return jaxpr, consts, entry


def _title(f: Any) -> str:
    while isinstance(f, functools.partial):
        f = f.func
    name = getattr(f, "__name__", type(f).__name__)
    return name if is_word(name) else "f"


def _is_input(leaf: Any) -> bool:
    if isinstance(leaf, bool | int | np.bool_):
        return False
    return isinstance(
        leaf, jax.Array | np.ndarray | np.generic | float | complex | jax.ShapeDtypeStruct
    ) and (
        not isinstance(leaf, np.ndarray | np.generic) or leaf.dtype.kind in "fciub" or leaf.dtype.kind == "V"
    )


def _is_output(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int | complex)
