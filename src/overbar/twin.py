"""The twin of a function: the same computation with its hand-derived rules taken out.

The function is traced to a jaxpr; every call of a custom_vjp function in it, at any depth, is
replaced by the operations of its primal. What is left has no backward pass of its own, so JAX
derives one.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Collection
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax.extend.core import DropVar, Literal, Var, jaxpr_as_fun

from overbar._adapter import custom_jvp_body, custom_vjp_body, map_jaxprs, opened, replaced, source_of

P = ParamSpec("P")
R = TypeVar("R")


def twin(f: Callable[P, R], *, custom_jvp: bool | str | Collection[str] = False) -> Callable[P, R]:
    """Returns f without its custom_vjp rules, so that `jax.grad(overbar.twin(f))` is plain autodiff.

    The rules are found through jit, scan, cond, while, remat, vmap, shard_map and any other body
    that f's jaxpr holds, whoever wrote them. What is no part of that jaxpr cannot be reached:

      - a gradient that f itself takes (a training step with `jax.grad` inside) has used its rules
        by then: take the twin of the loss instead, `jax.grad(overbar.twin(loss))`;
      - rules that are called only by the derivative of a function that stays (a custom_jvp function,
        `jax.lax.custom_root`) or by the batched form of a `custom_vmap` function.

    Args:
      f: any function that `jax.jit` could trace. Its arguments that are no arrays (Python numbers,
        strings, None, functions) stay as they are.
      custom_jvp: whether to take out custom_jvp functions too: False keeps them (JAX's own relu,
        logsumexp and special functions are such, and are trusted), True takes out all of them, a
        name or several ("relu") only those.

    Returns:
      A function of f's signature and results. It is traced at every call, as under
      `jax.make_jaxpr`; wrap it, or what you make of it, in `jax.jit` to trace once.

    Raises:
      TypeError: f is no function, or custom_jvp is something else; when called, what f raises, and
        JAX's concretization error where f's control flow depends on values.

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def half_wrong(x):
    ...     return x**2
    >>> half_wrong.defvjp(lambda x: (x**2, x), lambda x, y_bar: (y_bar * x,))
    >>> float(jax.grad(half_wrong)(3.0)), float(jax.grad(twin(half_wrong))(3.0))
    (3.0, 6.0)
    """

    if not callable(f):
        raise TypeError(f"twin takes a function, but came {f!r}.")
    return _without_rules(f, custom_jvp if isinstance(custom_jvp, bool) else _names(custom_jvp), None)


def keeping(f: Callable[P, R], source: str, custom_jvp: frozenset[str] = frozenset()) -> Callable[P, R]:
    """The twin of f in which the rules of one source ("name at file:line") stay."""
    return _without_rules(f, custom_jvp, source)


def _without_rules(f: Callable[P, R], chosen: bool | frozenset[str], kept: str | None) -> Callable[P, R]:
    @functools.wraps(f, updated=())  # a Rule's own attributes stay with the rule
    def without_rules(*args: P.args, **kwargs: P.kwargs) -> R:
        leaves, tree = jax.tree.flatten((args, kwargs))
        traced = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray | np.generic)]
        outputs = _Outputs()

        def flat(*arrays: Any) -> list[Any]:
            filled = list(leaves)
            for i, array in zip(traced, arrays, strict=True):
                filled[i] = array
            a, k = jax.tree.unflatten(tree, filled)
            return outputs.split(f(*a, **k))

        arrays = [leaves[i] for i in traced]
        jaxpr = without(jax.make_jaxpr(flat)(*arrays), chosen, kept)
        return outputs.join(jaxpr_as_fun(jaxpr)(*arrays))

    return without_rules


class _Outputs:
    """Sets aside what a function returns that is no array, while the arrays are traced."""

    def split(self, result: Any) -> list[Any]:
        self.leaves, self.tree = jax.tree.flatten(result)
        self.arrays = [
            i for i, x in enumerate(self.leaves) if isinstance(x, jax.Array | np.ndarray | np.generic)
        ]
        arrays = [self.leaves[i] for i in self.arrays]
        for i in self.arrays:
            self.leaves[i] = None  # no tracer outlives its trace
        return arrays

    def join(self, arrays: list[Any]) -> Any:
        for i, array in zip(self.arrays, arrays, strict=True):
            self.leaves[i] = array
        return jax.tree.unflatten(self.tree, self.leaves)


def _names(custom_jvp: str | Collection[str]) -> frozenset[str]:
    names = [custom_jvp] if isinstance(custom_jvp, str) else custom_jvp
    if not isinstance(names, Collection) or not all(isinstance(n, str) for n in names):
        raise TypeError(f"custom_jvp must be True, False, a name or several names, but came {custom_jvp!r}.")
    return frozenset(names)


_remembered: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


def without(jaxpr: Any, custom_jvp: bool | frozenset[str] = False, kept: str | None = None) -> Any:
    """The jaxpr with the calls of custom_vjp functions, and those of custom_jvp, replaced by primals.

    A jaxpr without any is returned itself, and the result is remembered as long as the jaxpr
    lives: JAX compiles a jit body once for one jaxpr, so a twin called again compiles nothing.
    """
    known = _remembered.setdefault(jaxpr, {})
    if (custom_jvp, kept) not in known:
        new = _rewritten(jaxpr, custom_jvp, kept)
        if new is jaxpr:
            return jaxpr  # not remembered: an entry that holds its own key would never go
        known[custom_jvp, kept] = new
    return known[custom_jvp, kept]


def _body_to_inline(eqn: Any, custom_jvp: bool | frozenset[str], kept: str | None) -> Any | None:
    if (body := custom_vjp_body(eqn)) is not None:
        return None if kept is not None and source_of(body) == kept else body
    if (named := custom_jvp_body(eqn)) is not None:
        name, body = named
        if kept is not None and source_of(body) == kept:
            return None
        if custom_jvp is True or (custom_jvp and name in custom_jvp):
            return body
    return None


def _rewritten(jaxpr: Any, custom_jvp: bool | frozenset[str], kept: str | None) -> Any:
    inner, _ = opened(jaxpr)
    eqns: list[Any] = []
    renamed: dict[Any, Any] = {}  # variables whose definition was inlined -> what they are now
    changed = False

    def now(atom: Any, names: dict[Any, Any]) -> Any:
        return atom if isinstance(atom, Literal) else names.get(atom, atom)

    def inline(body: Any, operands: list[Any]) -> list[Any]:
        """Appends the body's equations with fresh variables; returns its outputs."""
        body, consts = opened(body)
        names: dict[Any, Any] = dict(zip(body.invars, operands, strict=True))
        names |= {v: Literal(c, v.aval) for v, c in zip(body.constvars, consts, strict=True)}
        for eqn in body.eqns:
            emit(eqn, names, fresh=True)
        return [now(v, names) for v in body.outvars]

    def emit(eqn: Any, names: dict[Any, Any], fresh: bool) -> None:
        nonlocal changed
        operands = [now(v, names) for v in eqn.invars]
        if (body := _body_to_inline(eqn, custom_jvp, kept)) is not None:
            changed = True
            names |= zip(eqn.outvars, inline(body, operands), strict=True)
            return
        params = map_jaxprs(lambda j: without(j, custom_jvp, kept), eqn.params)
        changed = changed or any(params[n] is not eqn.params[n] for n in params)
        outvars = eqn.outvars
        if fresh:
            outvars = [v if isinstance(v, DropVar) else Var(v.aval) for v in eqn.outvars]
            names |= zip(eqn.outvars, outvars, strict=True)
        eqns.append(eqn.replace(invars=operands, outvars=outvars, params=params))

    for eqn in inner.eqns:
        emit(eqn, renamed, fresh=False)
    if not changed:
        return jaxpr
    return replaced(jaxpr, eqns, [now(v, renamed) for v in inner.outvars])
