"""What a graph is made of: nodes, the messages between them, and their bars by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from overbar.graph import Graph


class GraphError(TypeError, ValueError):
    """No graph, or no bars, can be made of this; the message says of what and why.

    Both a TypeError and a ValueError, as the errors are that `jax.grad` raises in its place.
    """


@dataclass(frozen=True)
class Group:
    """One call of a function of the user's; the nodes made in it show it in `Node.groups`.

    Attributes:
      name: the function's name, numbered where it is called several times: "layer", "layer_2".
    """

    name: str

    def __repr__(self) -> str:
        return self.name


@dataclass(eq=False)
class Node:
    """A variable of the program, and the operation that makes it.

    Attributes:
      name: the variable's name in the source, a leaf's path (`params.w1`), or a short name (v1);
        unique in its graph.
      symbol: the same as a person writes it, such as λ for lam, h₁ for h1.
      parents: the nodes that the operation is evaluated of, one for each use: x · x has x twice.
      operation: the expression in the source, such as "w * x + b"; "" for an input.
      kind: "input", "constant", "operation", "rule" (it has a hand-written backward), "loop", "branch",
        "call" (jit, remat), or "part" (one of the results of the node that is its parent).
      needs_bar: whether it depends on a float input along which a bar flows to it; a bar it has anyway.
      groups: the calls of functions it was made in, the outermost first.
      file, line: where in the source; None if not known.
      primitives: the names of the JAX primitives that the operation is made of.
      trips: for a scan, how many steps it takes; else None.
    """

    name: str
    symbol: str
    kind: str
    operation: str
    parents: tuple[Node, ...]
    avals: tuple[Any, ...]
    several: bool
    graph: Graph = field(repr=False)
    groups: tuple[Group, ...] = ()
    file: str | None = None
    line: int | None = None
    eqns: tuple[Any, ...] = ()
    positions: tuple[Any, ...] = ()  # of the equations, in the source
    operands: tuple[Any, ...] = ()
    carries: tuple[bool, ...] = ()
    program: Callable[..., Any] | None = None
    key: Any = None
    part: int | None = None
    trips: int | None = None
    needs_bar: bool = False
    given: Any = None
    # What the passes leave.
    computed: Any = None
    pullback: Callable[..., Any] | None = None
    obstacle: Exception | None = None
    gathered: Any = None

    def __repr__(self) -> str:
        return self.name

    @property
    def primitives(self) -> tuple[str, ...]:
        return tuple(eqn.primitive.name for eqn in self.eqns)

    @property
    def value(self) -> Any:
        """The value, by `Graph.forward`, which is called if it was not yet.

        An array; a tuple of arrays for an operation of several results.
        """
        if self.kind == "input":
            if self.given is None:
                raise GraphError(f"{self.name} has no value: the graph was made of shapes alone.")
            return self.given
        self.graph._ensure_forward()
        return self.computed

    @property
    def bar(self) -> Any:
        """The bar, ∂L/∂ of this variable, by `Graph.backprop`, which is called if it was not yet.

        It has the value's shape and dtype; zeros where nothing flows back, None for integers,
        booleans and keys, which have no bar.
        """
        self.graph._ensure_backprop()
        return self.gathered

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages it gathers, one for each use of it by a child; its bar is their sum."""
        return tuple(m for m in self.graph.messages if m.target is self)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.avals[0].shape)

    @property
    def dtype(self) -> Any:
        return self.avals[0].dtype

    @property
    def is_float(self) -> bool:
        """Whether it can have a bar."""
        return any(inexact(aval) for aval in self.avals)

    @property
    def equation(self) -> str:
        """How its bar comes about, in bar notation, such as "z̄ x + R̄ w"; "" where there is none."""
        from overbar.graph.equations import bar_equation

        return bar_equation(self)

    @property
    def inner(self) -> Mapping[str, Graph]:
        """What a loop, branch or call holds, as graphs of their own by their part: {"step": ...}."""
        return self.graph._open(self)


@dataclass(frozen=True, eq=False)
class Message:
    """What a child sends one of its parents along one edge: n̄_j ∂n_j/∂n_i.

    Attributes:
      source: the child, n_j.
      target: the parent, n_i.
      value: the error signal, with the parent's shape and dtype.
      argument: which of the child's arguments the parent is there: x · x has 0 and 1.
    """

    source: Node
    target: Node
    value: Any
    argument: int = 0

    def __repr__(self) -> str:
        return f"{self.source.name} → {self.target.name}"

    @property
    def equation(self) -> str:
        """The message in bar notation, such as "z̄ x"."""
        from overbar.graph.equations import message_equation

        return message_equation(self.source, self.argument)


@jax.tree_util.register_pytree_with_keys_class
class Bars(Mapping[str, Any]):
    """The bars of a graph's nodes by name; λ and lam name the same one. A pytree, so that jit returns it.

    Variables that the result does not depend on are found by name only: their bars are zeros.
    """

    def __init__(self, bars: Mapping[str, Any], symbols: Mapping[str, str], idle: Mapping[str, Any]):
        self._bars, self._symbols, self._idle = dict(bars), dict(symbols), dict(idle)

    def __getitem__(self, name: str) -> Any:
        found = name if name in self._bars else self._symbols.get(name)
        if found in self._bars:
            return self._bars[found]
        if name in self._idle:
            aval = self._idle[name]
            return jnp.zeros(aval.shape, aval.dtype) if inexact(aval) else None
        raise KeyError(unknown(name, self._bars))

    def __contains__(self, name: object) -> bool:
        return name in self._bars or self._symbols.get(str(name)) in self._bars or name in self._idle

    def __iter__(self) -> Iterator[str]:
        return iter(self._bars)

    def __len__(self) -> int:
        return len(self._bars)

    def __repr__(self) -> str:
        return repr(self._bars)

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        keys = [(jax.tree_util.DictKey(name), bar) for name, bar in self._bars.items()]
        return keys, (tuple(self._bars), tuple(self._symbols.items()), tuple(self._idle.items()))

    @classmethod
    def tree_unflatten(cls, aux: Any, children: Any) -> Bars:
        names, symbols, idle = aux
        return cls(dict(zip(names, children, strict=True)), dict(symbols), dict(idle))


def unknown(name: str, names: Mapping[str, Any], idle: Mapping[str, Any] | None = None) -> str:
    shown = ", ".join(list(names)[:12]) + (", ..." if len(names) > 12 else "")
    if idle and name in idle:
        return f"{name!r} is no node: the result does not depend on it, its bar is 0; the nodes are {shown}"
    return f"no node is called {name!r}; the nodes are {shown}"


def inexact(aval: Any) -> bool:
    """Whether a variable of this type can have a bar: float or complex."""
    return bool(jnp.issubdtype(aval.dtype, jnp.inexact))


def describe(node: Node) -> str:
    """A node's type as float32[3,4]."""
    return ", ".join(f"{aval.dtype}[{','.join(map(str, aval.shape))}]" for aval in node.avals)
