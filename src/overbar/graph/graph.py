"""The graph of a function: made of its jaxpr, walked by the two passes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var

from overbar._adapter import argument_names, opened, scan_counts
from overbar.graph import cones, markup, page, passes
from overbar.graph.build import Build
from overbar.graph.kinds import entry_of
from overbar.graph.model import Bars, GraphError, Message, Node, describe, unknown
from overbar.graph.paths import dotted
from overbar.graph.picture import picture
from overbar.graph.seeds import seeds_of
from overbar.graph.source import Reader
from overbar.graph.svg import svg
from overbar.graph.symbols import barred, symbol

Level = Literal["statement", "operation"]


class Graph:
    """A function as a computational graph, with its values and its bars; made by `make_graph`.

    Attributes:
      name: the function's.
      order: the nodes in topological order, each after its parents; an input stands
        right before its first use.
      inputs: the nodes of the array and float leaves of the arguments, in the order of the arguments.
      outputs: the nodes of the function's results, in the order of their leaves.
    """

    name: str
    order: tuple[Node, ...]
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]

    def __init__(
        self,
        jaxpr: Any,
        consts: Sequence[Any],
        inputs: Sequence[tuple[str, Any]],
        reader: Reader,
        level: Level,
        *,
        unflatten: Callable[[list[Any]], Any] | None = None,
        unflatten_bars: Callable[[list[Any]], Any] | None = None,
        seed: Callable[[], Sequence[Any] | None] | None = None,
        bars_given: Sequence[str] | None = None,
    ):
        self.name, self.level = reader.root.name, level
        self._reader, self._seed, self._bars_given = reader, seed, bars_given
        self._unflatten = unflatten or (lambda leaves: leaves[0] if len(leaves) == 1 else tuple(leaves))
        self._unflatten_bars = unflatten_bars or tuple
        self._messages: list[Message] | None = None
        self._given: list[tuple[Node, Any]] = []
        self._inner: dict[Node, dict[str, Graph]] = {}
        self._compiled: dict[Any, Any] = {}
        self._children_of: dict[Node, tuple[Node, ...]] | None = None
        self._evaluated = False
        built = Build(self, jaxpr, consts, inputs)
        self.order, self.inputs, self.outputs, self._idle = (
            built.order,
            built.inputs,
            built.outputs,
            built.idle,
        )
        self._by_name = {node.name: node for node in self.order}
        self._symbols = {node.symbol: node.name for node in reversed(self.order)}
        keys = (node.key for node in self.order if node.key is not None)
        self._uses: Mapping[Any, int] = Counter(keys)

    # ------------------------------------------------------------------ the two passes

    def forward(self) -> Any:
        """Evaluates every node from its parents, in order (Algorithm 6.1).

        Returns:
          What the function returns.

        Raises:
          GraphError: the graph was made of shapes alone.
        """
        self._messages = None
        self._inner.clear()  # they show the values of the last pass
        passes.forward(self)
        self._evaluated = True
        return self.value

    def backprop(self, bar: Any = 1) -> Any:
        """Gives every node its bar: the sum of the messages of its children (Algorithm 6.2).

        Called again it starts afresh; nothing is added onto the bars before.

        Args:
          bar: of the output; for a scalar 1 unless given. Of another output an array of its shape, of several
            outputs a pytree as the function returns them, with None for what counts for nothing.

        Returns:
          The bars of the arguments, as `jax.grad` by all of them: a tuple with one pytree an argument,
          followed by a dict if there are keyword arguments. None stands where there is no bar.

        Raises:
          GraphError: the output is no scalar and no bar is given, the bar's shape does not fit, the output
            is an integer, or an operation on the way has no derivative (a while loop).
        """
        seeds = seeds_of(self, bar)
        self._ensure_forward()
        self._messages, self._given = passes.backprop(self, seeds), seeds
        for graphs in self._inner.values():
            for graph in graphs.values():
                graph._messages = None
        return self._unflatten_bars([node.gathered for node in self.inputs])

    @property
    def value(self) -> Any:
        """What the function returns, by `forward`, which is called if it was not yet."""
        self._ensure_forward()
        return self._unflatten([node.value for node in self.outputs])

    @property
    def messages(self) -> tuple[Message, ...]:
        """What the children sent their parents, in the order of sending; by `backprop`."""
        self._ensure_backprop()
        return tuple(self._messages or ())

    @property
    def seeds(self) -> tuple[tuple[Node, Any], ...]:
        """The outputs, each with the bar it was given: that of a scalar cost is 1."""
        self._ensure_backprop()
        return tuple(self._given)

    @property
    def bars(self) -> Bars:
        """The bar of every node by its name, `graph.bars["z"]`; by `backprop`.

        A variable that the result does not depend on is no node, but has its bar here: zeros.
        """
        self._ensure_backprop()
        idle = {name: aval for name, aval in self._idle.items() if name not in self._by_name}
        return Bars({node.name: node.gathered for node in self.order}, self._symbols, idle)

    def _ensure_forward(self) -> None:
        if not self._evaluated:
            self.forward()

    def _ensure_backprop(self) -> None:
        if self._messages is None:
            given = self._seed() if self._seed is not None else None
            if given is None:
                self.backprop()
            else:
                self.backprop(self._unflatten(list(given)))

    @property
    def is_concrete(self) -> bool:
        """Whether its inputs have values that can be shown: they are no tracers and no mere shapes."""
        return all(n.given is not None and not isinstance(n.given, jax.core.Tracer) for n in self.inputs)

    @property
    def can_backprop(self) -> bool:
        """Whether `backprop` needs no bar to be given: the output is one float number."""
        if self._seed is not None:
            return self._seed() is not None
        return len(self.outputs) == 1 and self.outputs[0].shape == () and self.outputs[0].is_float

    def bars_or_why(self) -> tuple[bool, str]:
        """Whether there are bars to show, of the last `backprop` or of a plain one; if not, why not."""
        if self._messages is not None:
            return True, ""
        if not self.can_backprop:
            outputs = ", ".join(f"{n.name} {describe(n)}" for n in self.outputs)
            return (
                False,
                f"No bars: the output is no float number ({outputs}); graph.backprop(bar=...) gives them.",
            )
        try:
            self._ensure_backprop()
        except GraphError as error:
            return False, f"No bars: {error}"
        return True, ""

    # ------------------------------------------------------------------ looking at it

    def __getitem__(self, name: str) -> Node:
        """A node by its name or its symbol: graph["lam"], graph["λ"]."""
        if name not in self._by_name and self._symbols.get(name) not in self._by_name:
            raise KeyError(unknown(name, self._by_name, self._idle))
        return self._by_name[name] if name in self._by_name else self._by_name[self._symbols[name]]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name or name in self._symbols

    def __iter__(self) -> Iterator[Node]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)

    def __repr__(self) -> str:
        return f"<graph of {self.name}: {len(self.inputs)} inputs, {len(self.order)} nodes>"

    def __str__(self) -> str:
        return self.text()

    def text(self, *, depth: int = 1, most: int = 60, width: int | None = None) -> str:
        """The lecture's two columns: what each node is, and how its bar comes about.

        Args:
          depth: how many levels of loops, branches and calls are opened.
          most: how many lines are shown before the middle is folded.
          width: of the place it is shown at, in letters; where the columns do not fit beside each other
            the second stands below the first, line by line. None for as wide as it gets.
        """
        from overbar.graph.text import columns

        return columns(self, depth=depth, most=most, width=width)

    def dot(self, *, most: int = 200) -> str:
        """The picture as Graphviz DOT; of more than `most` nodes the middle is folded into one box."""
        return markup.dot(picture(self, most=most))

    def mermaid(self, *, most: int = 200) -> str:
        """The picture as Mermaid, which GitHub draws in a ```mermaid block of Markdown."""
        return markup.mermaid(picture(self, most=most))

    def svg(self, *, most: int = 200) -> str:
        """The picture as SVG, for light and dark backgrounds.

        Raises:
          GraphError: grandalf, of the extra `graph`, is not installed.
        """
        return svg(picture(self, most=most))

    def page(self, *, most: int = 200) -> str:
        """A self-contained HTML page that steps through the two passes, node by node.

        It shows each node's equation, its value, the messages that arrive and their sum; arrays as tables or
        maps. It needs no network.
        """
        return page.page(picture(self, most=most, arrays=True))

    def save(self, path: str | os.PathLike[str], *, most: int = 200) -> None:
        """Writes the picture, as its suffix says: .html (`page`), .svg, .dot (Graphviz) or .mmd (Mermaid).

        Raises:
          GraphError: another suffix; for .svg grandalf is not installed.
        """
        target = Path(path)
        written = {".html": self.page, ".svg": self.svg, ".dot": self.dot, ".mmd": self.mermaid}
        if target.suffix.lower() not in written:
            came = target.suffix or "none"
            raise GraphError(f"the suffix says what to write: {', '.join(written)}; came {came} ({target}).")
        target.write_text(written[target.suffix.lower()](most=most), "utf-8")

    def _repr_html_(self) -> str | None:
        """The SVG in a notebook; the text where it cannot be drawn."""
        try:
            return f'<div style="overflow-x:auto">{self.svg()}</div>'
        except GraphError:
            return None

    @property
    def groups(self) -> Mapping[str, tuple[Node, ...]]:
        """The calls of the user's functions, and the nodes made in each."""
        found: dict[str, list[Node]] = {}
        for node in self.order:
            for group in node.groups:
                found.setdefault(group.name, []).append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    def _children(self, node: Node) -> tuple[Node, ...]:
        if self._children_of is None:
            found: dict[Node, dict[Node, None]] = {}
            for child in self.order:
                for parent in child.parents:
                    found.setdefault(parent, {})[child] = None
            self._children_of = {parent: tuple(children) for parent, children in found.items()}
        return self._children_of.get(node, ())

    # ------------------------------------------------------------------ loops, branches and calls

    def _open(self, node: Node) -> dict[str, Graph]:
        if node not in self._inner:
            self._inner[node] = self._opened(node) if node.kind in ("loop", "branch", "call") else {}
        return self._inner[node]

    def _opened(self, node: Node) -> dict[str, Graph]:
        if all(n.given is not None for n in self.inputs):
            self._ensure_forward()
        eqn = node.eqns[-1]
        parents = iter(node.parents)
        outer = [next(parents) if isinstance(v, Var) else v for v in eqn.invars]
        name = eqn.primitive.name
        bodies = list(cones.bodies(eqn).values())
        if node.kind == "call":
            return {"body": self._body(bodies[0], outer, node, values=True)}
        if name == "scan":
            return {"step": self._body(bodies[0], outer, node)}
        if name == "while":
            held = eqn.params
            test, step = held["cond_nconsts"], held["body_nconsts"]
            carry = outer[test + step :]
            return {
                "test": self._body(held["cond_jaxpr"], [*outer[:test], *carry], node),
                "step": self._body(held["body_jaxpr"], [*outer[test : test + step], *carry], node),
            }
        index = None
        if self._evaluated and isinstance(outer[0], Node) and self.is_concrete:
            index = int(np.clip(int(outer[0].value), 0, len(bodies) - 1))
        return {
            f"branch {i}": self._body(body, outer[1:], node, values=i == index)
            for i, body in enumerate(bodies)
        }

    def _body(self, body: Any, outer: Sequence[Any], node: Node, values: bool = False) -> Graph:
        inner, consts = opened(body)
        own = argument_names(body) or (None,) * len(inner.invars)
        inputs: list[tuple[str, Any]] = []
        for name, atom in zip(own, outer, strict=True):
            if name is None:
                name = atom.name if isinstance(atom, Node) else "c"
            value = None
            if isinstance(atom, Node):
                value = atom.value if values and self._evaluated else None
            else:
                value = jnp.asarray(atom.val)
            inputs.append((dotted(name), value))
        title, entry = entry_of(body)
        reader = Reader(self._reader.home, entry, title)

        def seed() -> Sequence[Any] | None:
            if not values or not self.bars_or_why()[0]:
                return None
            if node.several:
                given = iter(node.gathered)
                used = set(node.operands[1])
                return [next(given) if v in used else None for v in node.eqns[-1].outvars]
            return [node.gathered if v in node.operands[1] else None for v in node.eqns[-1].outvars]

        given = self._bars_given_to(node, [name for name, _ in inputs])
        return Graph(inner, consts, inputs, reader, self.level, seed=seed, bars_given=given)

    def _bars_given_to(self, node: Node, inputs: Sequence[str]) -> list[str]:
        """What the bars of the results of a body are, in words: those of the node that holds it."""
        symbols: dict[Any, str] = {}
        parts = {child.part: child.symbol for child in self._children(node)} if node.several else {}
        for i, v in enumerate(node.operands[1]):
            symbols[v] = barred(parts[i]) if i in parts else barred(node.symbol)
        eqn = node.eqns[-1]
        words = [symbols.get(v, "0") for v in eqn.outvars]
        if eqn.primitive.name == "scan":
            constants, carried = scan_counts(eqn)
            carry = inputs[constants : constants + carried]
            ends = [f"({barred(symbol(name))} of the next step)" for name in carry]
            words = [*ends, *(f"{word}[i]" if word != "0" else word for word in words[carried:])]
        return words if eqn.primitive.name != "while" else []
