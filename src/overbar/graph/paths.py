"""Paths to the leaves of pytrees: params.w1, layers[0]; as JAX has them and as an expression writes them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from overbar.graph.symbols import is_word


def argument_name(f: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], path: Any) -> str:
    """The name of a leaf of (args, kwargs): its parameter's, and the path in it: params.w1, layers[0]."""
    which, first, *rest = path
    if which.idx == 1:
        return str(first.key) + path_text(rest)
    return _parameter(f, first.idx) + path_text(rest)


def _parameter(f: Callable[..., Any], index: int) -> str:
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        return f"x{index}"
    for i, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_POSITIONAL:
            return f"{parameter.name}[{index - i}]"
        if i == index:
            return parameter.name
    return f"x{index}"


def path_text(path: Sequence[Any]) -> str:
    text = ""
    for key in path:
        if isinstance(key, jax.tree_util.GetAttrKey):
            text += f".{key.name}"
        elif isinstance(key, jax.tree_util.DictKey) and isinstance(key.key, str) and is_word(key.key):
            text += f".{key.key}"
        else:
            text += f"[{getattr(key, 'idx', getattr(key, 'key', key))!r}]"
    return text


def path_of(node: ast.AST, arguments: Mapping[str, ast.expr] | None = None) -> str | None:
    """The path that an expression writes, p["w"] or p.w as p.w; None if it is no path.

    Args:
      node: the expression.
      arguments: what names in it stand for.
    """
    path: list[Any] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            path.append(jax.tree_util.GetAttrKey(node.attr))
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            key = node.slice.value
            path.append(
                jax.tree_util.SequenceKey(key) if isinstance(key, int) else jax.tree_util.DictKey(key)
            )
        else:
            return None
        node = node.value
    base: str | None = str(node.id)
    if arguments is not None and node.id in arguments:
        base = path_of(arguments[node.id])
    return None if base is None else base + path_text(path[::-1])


def dotted(name: str) -> str:
    """The path p['w'] as p.w; what is no path stays as it is."""
    try:
        return path_of(ast.parse(name, mode="eval").body) or name
    except SyntaxError:
        return name
