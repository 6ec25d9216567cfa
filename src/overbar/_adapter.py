"""What depends on how JAX writes down a program and types an array: the one adapter between versions.

JAX 0.10 tells a closed jaxpr (a jaxpr with its constants) from an open one; from 0.12 there is one
class, and `jax.extend.core.ClosedJaxpr` is another name of it. Both are rebuilt here through what
the two have in common. Under the flag `jax_custom_vjp3` (0.12) a custom_vjp function is a hijax
primitive that carries a trace of itself instead of a `custom_vjp_call`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Var, jaxpr_as_fun
from jax.extend.core.primitives import custom_jvp_call_p, custom_vjp_call_p
from jax.interpreters import partial_eval


def opened(jaxpr: Any) -> tuple[Any, list[Any]]:
    """A jaxpr of either kind -> (the one that has eqns and can be replaced, its constants)."""
    return getattr(jaxpr, "jaxpr", jaxpr), list(getattr(jaxpr, "consts", ()))


def is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") and hasattr(value, "invars")


def replaced(jaxpr: Any, eqns: list[Any], outvars: list[Any]) -> Any:
    """The same jaxpr with other equations and outputs, of the kind it was."""
    inner, _ = opened(jaxpr)
    new = inner.replace(eqns=eqns, outvars=outvars)
    return new if inner is jaxpr else jaxpr.replace(jaxpr=new)


def map_jaxprs(fn: Callable[[Any], Any], params: dict[str, Any]) -> dict[str, Any]:
    """An equation's parameters with fn applied to the jaxprs among them, alone or in (named) tuples."""

    def mapped(value: Any) -> Any:
        if is_jaxpr(value):
            return fn(value)
        if isinstance(value, tuple | list):
            new = [mapped(v) for v in value]
            if all(a is b for a, b in zip(new, value, strict=True)):
                return value
            return value._make(new) if hasattr(value, "_make") else type(value)(new)
        return value

    return {name: mapped(value) for name, value in params.items()}


def custom_vjp_body(eqn: Any) -> Any | None:
    """The primal's jaxpr if the equation calls a custom_vjp function, else None."""
    if eqn.primitive is custom_vjp_call_p:
        return eqn.params["call_jaxpr"]
    hijax = eqn.params.get("_prim")
    if type(hijax).__name__ == "CustomVJPTraced":
        return hijax.traced.jaxpr
    return None


def custom_jvp_body(eqn: Any) -> tuple[str, Any] | None:
    """(the function's name, the primal's jaxpr) if the equation calls a custom_jvp function."""
    if eqn.primitive is custom_jvp_call_p:
        body = eqn.params["call_jaxpr"]
        return opened(body)[0].debug_info.func_name, body
    hijax = eqn.params.get("_prim")
    if type(hijax).__name__ == "CustomJVPTraced":
        body = hijax.traced.jaxpr
        return opened(body)[0].debug_info.func_name, body
    return None


def varying_axes(tree: Any) -> frozenset[str]:
    """The mesh axes of an enclosing `jax.shard_map` over which any leaf varies."""
    axes: frozenset[str] = frozenset()
    for leaf in jax.tree.leaves(tree):
        axes |= jax.typeof(leaf).manual_axis_type.varying
    return axes


def vary_over(tree: Any, axes: frozenset[str]) -> Any:
    """The same values, typed as varying over these axes as well; the transpose is the sum over them."""

    def vary(leaf: Any) -> Any:
        missing = tuple(sorted(axes - varying_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree) if axes else tree


def explicit_sharding(x: Any, axes: slice = slice(None), *more: tuple[Any, slice]) -> Any | None:
    """The sharding that is part of the types on a mesh with explicit axes; elsewhere None.

    Of x, or of an array whose axes are those of x, and then those of others.
    """
    shardings = [(jax.typeof(a).sharding, part) for a, part in ((x, axes), *more)]
    spec = jax.sharding.PartitionSpec(*(entry for s, part in shardings for entry in s.spec[part]))
    explicit = jax.sharding.AxisType.Explicit in shardings[0][0].mesh.axis_types
    return shardings[0][0].update(spec=spec) if explicit else None


def laid(x: jax.Array, sharding: Any | None) -> jax.Array:
    """x with this sharding in its type, on a mesh with explicit axes; where that is None x itself."""
    return x if sharding is None else jax.sharding.reshard(x, sharding)


def run_placed(fn: Callable[..., list[Any]], args: Any, shardings: list[Any]) -> list[Any]:
    """fn(*args), each result typed with its sharding, and XLA places what is in between.

    On a mesh with explicit axes each operation would have to say how its result is sharded. Where there
    are none, and the shardings are None, it is the plain call.
    """
    if all(s is None for s in shardings):
        return fn(*args)
    leaves, tree = jax.tree.flatten(args)
    arrays = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]  # no bar of an integer

    def of_arrays(*values: Any) -> list[Any]:
        filled = list(leaves)
        for i, value in zip(arrays, values, strict=True):
            filled[i] = value
        return fn(*jax.tree.unflatten(tree, filled))

    placed = jax.sharding.auto_axes(of_arrays, out_sharding=shardings)
    return list(placed(*(leaves[i] for i in arrays)))


def zeros_of(kind: Any) -> Any:
    """Zeros of a type, as `jax.typeof` tells it: shape, dtype, sharding and the mesh axes it varies over."""
    if kind.dtype == jax.dtypes.float0:
        return np.zeros(kind.shape, kind.dtype)
    explicit = jax.sharding.AxisType.Explicit in kind.sharding.mesh.axis_types
    zeros = jax.lax.full(kind.shape, 0, kind.dtype, sharding=kind.sharding if explicit else None)
    return vary_over(zeros, kind.manual_axis_type.varying)


def used_inputs(jaxpr: Any, outputs: list[bool]) -> list[bool]:
    """Which inputs of a program the outputs that are asked for depend on, also through loops and calls."""
    used: list[bool] = partial_eval.dce_jaxpr(opened(jaxpr)[0], outputs)[1]
    return used


def run_for(jaxpr: Any, outputs: list[bool]) -> list[Any]:
    """Runs a program without inputs for some of its outputs only: what no other depends on is not run."""
    inner, constants = opened(jaxpr)
    asked, _ = partial_eval.dce_jaxpr(inner, outputs)
    return list(jaxpr_as_fun(ClosedJaxpr(asked, constants))())


def source_of(jaxpr: Any) -> str:
    """Where the function was written that a jaxpr was traced from, as "name at file:line"."""
    return str(opened(jaxpr)[0].debug_info.func_src_info)


def users_rule_body(eqn: Any) -> Any | None:
    """The primal's jaxpr if the equation calls a custom_vjp function, or a custom_jvp one not JAX's own."""
    if (body := custom_vjp_body(eqn)) is not None:
        return body
    if (named := custom_jvp_body(eqn)) is not None and not is_jaxs_own(named[1]):
        return named[1]
    return None


def rule_source(eqn: Any) -> str:
    """Where a rule was written: its primal; and its backward, where the primal is a function of JAX's."""
    body = users_rule_body(eqn)
    source = source_of(body)
    backward = getattr(eqn.params.get("bwd"), "debug_info", None)
    if is_jaxs_own(body) and backward is not None:
        return f"{source.split(' at ')[0]} with backward {backward.func_src_info}"
    return source


def custom_jvp_functions(f: Callable[..., Any], inputs: list[Any]) -> frozenset[str]:
    """The names of the custom_jvp functions in f that are not JAX's own."""
    names: set[str] = set()

    def look(jaxpr: Any) -> Any:
        for eqn in opened(jaxpr)[0].eqns:
            if (named := custom_jvp_body(eqn)) is not None and not is_jaxs_own(named[1]):
                names.add(named[0])
            map_jaxprs(look, eqn.params)
        return jaxpr

    look(jax.make_jaxpr(f)(*inputs))
    return frozenset(names)


def is_jaxs_own(jaxpr: Any) -> bool:
    """Whether the function that a jaxpr was traced from is written in JAX itself."""
    home = f"{Path(jax.__file__).parent}/"
    return f" at {home}" in source_of(jaxpr)


def sub_program(jaxpr: Any, eqn: Any) -> Any:
    """One equation of a jaxpr as a program of its own: its operands in, its results out."""
    variables = [v if isinstance(v, Var) else Var(v.aval) for v in eqn.invars]
    distinct = [Var(v.aval) for v in variables]
    program = jaxpr.replace(
        constvars=[],
        invars=distinct,
        outvars=list(eqn.outvars),
        eqns=[eqn.replace(invars=distinct)],
        effects=eqn.effects,
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )
    return ClosedJaxpr(program, [])


def program(eqns: list[Any], operands: list[Any], results: list[Any]) -> Any:
    """Some equations as a program of their own, from the operands to the results."""
    effects: set[Any] = set().union(*(eqn.effects for eqn in eqns))
    template, _ = opened(_empty())
    new = template.replace(
        constvars=[],
        invars=operands,
        outvars=results,
        eqns=eqns,
        effects=effects,
        debug_info=template.debug_info.with_unknown_names(),
    )
    return ClosedJaxpr(new, [])


@functools.cache
def _empty() -> Any:
    return jax.make_jaxpr(lambda: None)()


def frames_of(eqn: Any) -> list[tuple[Any, int]]:
    """Where an equation was traced: (code object, offset of the instruction), the outermost call first."""
    traceback = eqn.source_info.traceback
    if traceback is None:
        return []
    codes, offsets = traceback.raw_frames()
    return list(zip(codes, offsets, strict=True))[::-1]


def traced_at(eqn: Any) -> Any | None:
    """The one call of JAX that an equation was traced by; equations of one call share the very object."""
    return eqn.source_info.traceback


def argument_names(jaxpr: Any) -> tuple[str | None, ...]:
    """What the function that a jaxpr was traced from calls its arguments, leaf by leaf; () if unknown."""
    inner = opened(jaxpr)[0]
    names = inner.debug_info.arg_names
    if names is None or len(names) != len(inner.invars):
        return ()
    return tuple(name or None for name in names)


def scan_counts(eqn: Any) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many the carry, before those stepped through."""
    if "num_carry" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    parts = eqn.params["ft_in"].update(eqn.invars).unpack()
    constants, carry, _ = (len(list(part)) for part in parts)
    return constants, carry


def calls_of(eqn: Any) -> Any | None:
    """The body of an equation that only calls it, once, with its own operands: jit and remat."""
    if eqn.primitive.name in ("jit", "pjit", "remat2", "checkpoint", "closed_call", "core_call"):
        return eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return None


def entered(eqn: Any, operands: list[Any]) -> list[tuple[Any, list[Any]]]:
    """The bodies of a loop or a branch with the operands that they are first entered with.

    A scan's with its first slice, a while_loop's with its first carry, all the branches of a cond.
    """
    params = eqn.params
    if eqn.primitive.name == "scan":
        fixed = sum(scan_counts(eqn))
        if params["length"] == 0:
            return []
        first = -1 if params["reverse"] else 0
        return [(params["jaxpr"], [*operands[:fixed], *(x[first] for x in operands[fixed:])])]
    if eqn.primitive.name == "while":
        return [(params["body_jaxpr"], operands[params["cond_nconsts"] :])]
    if eqn.primitive.name == "cond":
        return [(branch, operands[1:]) for branch in params["branches"]]
    return []


def closed_over(eqn: Any) -> int:
    """How many of the operands of a custom_vjp call are no arguments, but what the function closes over."""
    return int(eqn.params.get("num_consts", 0))


def is_branch(eqn: Any) -> bool:
    """Whether an equation takes one of several bodies, by the number that is its first operand."""
    return bool(eqn.primitive.name == "cond")
