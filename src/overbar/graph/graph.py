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
from jax.extend.core import Literal as LiteralAtom
from jax.extend.core import Var, jaxpr_as_fun

from overbar._adapter import (
    argument_names,
    calls_of,
    custom_jvp_body,
    custom_vjp_body,
    opened,
    program,
    scan_counts,
    source_of,
)
from overbar.graph import cones, markup, page, passes
from overbar.graph.local import OFTEN
from overbar.graph.model import Bars, GraphError, Group, Message, Node, describe, inexact, unknown
from overbar.graph.names import Known, Variables, barred, dotted, expression, is_word, symbol, unique
from overbar.graph.picture import picture
from overbar.graph.source import Activation, Home, Place, Reader
from overbar.graph.svg import svg
from overbar.rule import registry

Level = Literal["statement", "operation"]
LOOPS = {"scan", "while"}


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
        self._build(jaxpr, consts, inputs)
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
        seeds = self._seeds(bar)
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

    def _seeds(self, bar: Any) -> list[tuple[Node, Any]]:
        if not self.outputs:
            raise GraphError(f"{self.name} returns no array, so that there is nothing to go back from.")
        if len(self.outputs) == 1:
            if isinstance(bar, list | tuple) and len(jax.tree.leaves(bar)) > 1:  # an array, written as a list
                bar = np.asarray(bar)
            bars = [bar] if not isinstance(bar, tuple | list | dict) else jax.tree.leaves(bar)
        else:
            bars = jax.tree.leaves(bar, is_leaf=lambda x: x is None)
        if len(bars) != len(self.outputs):
            names = ", ".join(f"{n.name} {describe(n)}" for n in self.outputs)
            raise GraphError(
                f"{self.name} returns {len(self.outputs)} arrays ({names}), and a bar is needed for each: "
                "pass bar= a pytree as the function returns, with None for what counts for nothing."
            )
        seeds = []
        for output, given in zip(self.outputs, bars, strict=True):
            if given is None or getattr(given, "dtype", None) == jax.dtypes.float0:
                continue
            seeds.append((output, self._seed_of(output, given)))
        return seeds

    def _seed_of(self, output: Node, given: Any) -> Any:
        if not output.is_float:
            raise GraphError(
                f"the output {output.name} of {self.name} is {describe(output)}, not float: it has no bar."
            )
        if np.shape(given) != output.shape:
            came = f"a bar of shape {np.shape(given)} came"
            if isinstance(given, int) and given == 1:
                came = "none was given"
            raise GraphError(
                f"the output {output.name} of {self.name} is {describe(output)}, no scalar: backprop "
                f"needs its bar, an array of shape {output.shape}, but {came}. Reduce it to a "
                "number, or pass bar=."
            )
        try:
            array = jnp.asarray(None if isinstance(given, str | bytes) else given)
            fits = jnp.issubdtype(array.dtype, jnp.number) and (
                not jnp.iscomplexobj(array) or jnp.issubdtype(output.dtype, jnp.complexfloating)
            )
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise GraphError(
                f"the bar of the output {output.name} of {self.name} must be numbers of {output.dtype}, "
                f"but came {given!r}."
            )
        return array.astype(output.dtype)

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

    # ------------------------------------------------------------------ how it is made

    def _build(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[tuple[str, Any]]) -> None:
        self._evaluated = False
        constants = {v: LiteralAtom(c, v.aval) for v, c in zip(jaxpr.constvars, consts, strict=True)}

        def known(v: Any) -> Any:
            return constants.get(v, v) if isinstance(v, Var) else v

        eqns = [eqn.replace(invars=[known(v) for v in eqn.invars]) for eqn in jaxpr.eqns]
        outputs = [known(v) for v in jaxpr.outvars]
        places = [self._reader.place(eqn) for eqn in eqns]
        alone = [_kind(eqn, self._reader.home) != "operation" for eqn in eqns]
        labels = [place.execution if self.level == "statement" else None for place in places]
        found = cones.find(eqns, outputs, labels, alone)

        results: list[tuple[Place, tuple[int, int] | None]] = []
        for cone in found:
            last = cone.members[-1]
            results.append((places[last], None))
            if len(cone.results) > 1:
                number = len(eqns[last].outvars)
                results += [(places[last], (eqns[last].outvars.index(v), number)) for v in cone.results]
            elif len(eqns[last].outvars) > 1:
                results[-1] = (
                    places[last],
                    (eqns[last].outvars.index(cone.results[0]), len(eqns[last].outvars)),
                )
        self._idle = self._variables_of_no_use(eqns, places, found)
        variables = Variables(results)
        wanted = [variables.of(i) for i in range(len(results))]
        input_names = unique([(name, 0) for name, _ in inputs], [])
        names = unique(wanted, input_names)

        self.inputs = tuple(
            self._input(name, v, value)
            for name, v, (_, value) in zip(input_names, jaxpr.invars, inputs, strict=True)
        )
        made: dict[Any, Node] = dict(zip(jaxpr.invars, self.inputs, strict=True))
        spoken: dict[Node, tuple[str, ...]] = {node: (node.name,) for node in self.inputs}
        taken = set(input_names)
        groups = _Groups()
        order: list[Node] = []
        placed: set[Node] = set()
        positions = _by_execution(results, names)
        number = 0

        def place_inputs(parents: Sequence[Node]) -> None:
            for node in sorted({p for p in parents if p.kind == "input"} - placed, key=self.inputs.index):
                placed.add(node)
                order.append(node)

        for cone in found:
            last = cone.members[-1]
            place = places[last]
            node = self._node(cone, [eqns[i] for i in cone.members], [places[i] for i in cone.members], made)
            node.name, node.symbol = names[number], symbol(names[number])
            node.groups = groups.of(place)
            others = positions.get(place.execution, {})
            mine = {p: symbol_ for p, symbol_ in others.items() if symbol_ != node.name}
            words = [(word, p.name) for p in dict.fromkeys(node.parents) for word in spoken.get(p, ())]
            doubled = Counter(word for word, _ in words)
            local = {word: name for word, name in words if doubled[word] == 1}
            final = variables.is_final(number) or results[number][1] is not None or len(cone.results) > 1
            item = variables.unpacked(number)
            names_known = Known(mine, local, [p.name for p in dict.fromkeys(node.parents)], taken)
            node.operation = expression(place, final, item, names_known, _plain(node))
            spoken[node] = _words(place, wanted[number])
            taken |= set(spoken[node])
            place_inputs(node.parents)
            order.append(node)
            number += 1
            if len(cone.results) == 1:
                made[cone.results[0]] = node
                continue
            for i, v in enumerate(cone.results):
                part = self._part(node, i, v, names[number])
                spoken[part] = _words(place, wanted[number])
                made[v] = part
                order.append(part)
                number += 1
        last_nodes = []
        for v in outputs:
            if not isinstance(v, Var):
                constant = self._constant(v, {node.name for node in (*self.inputs, *order)})
                order.append(constant)
                last_nodes.append(constant)
            else:
                place_inputs([made[v]])
                last_nodes.append(made[v])
        unused = [node for node in self.inputs if node not in placed]
        self.order, self.outputs = (*unused, *order), tuple(last_nodes)
        if len(self.order) > 4 * OFTEN:
            for node in self.order:
                if node.program is not None and node.eqns:
                    node.key = cones.structure(node.eqns, *node.operands)

    def _variables_of_no_use(
        self, eqns: Sequence[Any], places: Sequence[Place], found: Sequence[cones.Cone]
    ) -> dict[str, Any]:
        """The variables of the program that the result does not depend on, with their types."""
        used = {i for cone in found for i in cone.members}
        idle = [i for i, eqn in enumerate(eqns) if i not in used and len(eqn.outvars) == 1]
        variables = Variables([(places[i], None) for i in idle])
        named = [(variables.of(at), eqns[i].outvars[0].aval) for at, i in enumerate(idle)]
        return {variable[0]: aval for variable, aval in named if variable is not None}

    def _input(self, name: str, v: Any, value: Any) -> Node:
        node = Node(name, symbol(name), "input", "", (), (v.aval,), False, self, given=value)
        node.needs_bar = inexact(v.aval)
        return node

    def _constant(self, literal: Any, taken: set[str]) -> Node:
        name = unique([None], list(taken))[0]
        node = Node(name, symbol(name), "constant", str(literal.val), (), (literal.aval,), False, self)
        node.program = lambda: jnp.asarray(literal.val, literal.aval.dtype)
        return node

    def _part(self, whole: Node, i: int, v: Any, name: str) -> Node:
        node = Node(name, symbol(name), "part", f"{whole.name}[{i}]", (whole,), (v.aval,), False, self)
        node.part, node.carries, node.groups = i, (True,), whole.groups
        node.file, node.line = whole.file, whole.line
        node.needs_bar = whole.needs_bar and inexact(v.aval)
        return node

    def _node(self, cone: cones.Cone, eqns: list[Any], places: list[Place], made: Mapping[Any, Node]) -> Node:
        last = eqns[-1]
        operands: list[Any] = []  # a fresh variable for each use of a parent
        parents: list[Node] = []
        slots: dict[Any, Any] = {}
        inside: set[Any] = set()
        renamed: list[Any] = []
        for i, (eqn, place) in enumerate(zip(eqns, places, strict=True)):
            seen: Counter[Any] = Counter()
            atoms = []
            for v in eqn.invars:
                if not isinstance(v, Var) or v in inside:
                    atoms.append(v)
                    continue
                # Uses by several equations of one call in the source are one use: softmax(x).
                at = place.position if place.position is not None and len(eqns) > 1 else i
                slot = (at, v, seen[v])
                seen[v] += 1
                if slot not in slots:
                    slots[slot] = Var(v.aval)
                    operands.append(slots[slot])
                    parents.append(made[v])
                atoms.append(slots[slot])
            renamed.append(eqn.replace(invars=atoms))
            inside |= set(eqn.outvars)
        results = list(cone.results)
        several = len(results) > 1
        call = jaxpr_as_fun(program(renamed, operands, results))
        node = Node(
            "",
            "",
            _kind(last, self._reader.home),
            "",
            tuple(parents),
            tuple(v.aval for v in results),
            several,
            self,
        )
        node.program = _tupled(call) if several else _single(call)
        node.eqns, node.operands = tuple(renamed), (tuple(operands), tuple(results))
        node.positions = tuple(place.position for place in places)
        node.carries = cones.flows(renamed, operands, results)
        node.file, node.line = places[-1].file, places[-1].line
        node.needs_bar = node.is_float and any(
            carries and parent.needs_bar for carries, parent in zip(node.carries, parents, strict=True)
        )
        if last.primitive.name == "scan":
            node.trips = int(last.params["length"])
        return node

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
        title, entry = _entry(body)
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


class _Groups:
    """Numbers the calls of the user's functions."""

    def __init__(self) -> None:
        self._groups: dict[Activation, Group] = {}
        self._names: set[str] = set()

    def of(self, place: Place) -> tuple[Group, ...]:
        found: list[Group] = []
        execution = place.execution
        while execution is not None:
            activation = execution.activation
            execution = activation.caller
            if execution is not None:
                found.append(self._group(activation))
        return tuple(found[::-1])

    def _group(self, activation: Activation) -> Group:
        if activation not in self._groups:
            name, number = activation.name, 1
            while name in self._names:
                number += 1
                name = f"{activation.name}_{number}"
            self._names.add(name)
            self._groups[activation] = Group(name)
        return self._groups[activation]


def _kind(eqn: Any, home: Home) -> str:
    """What kind of node an equation makes; JAX's own jitted functions are mere operations."""
    if custom_vjp_body(eqn) is not None:
        return "rule"
    if eqn.primitive.name in LOOPS:
        return "loop"
    if eqn.primitive.name == "cond":
        return "branch"
    if (body := calls_of(eqn)) is not None:
        _, entry = _entry(body)
        return "call" if isinstance(entry, tuple) and entry[1] in home else "operation"
    return "operation"


def _entry(body: Any) -> tuple[str, Any]:
    """The name of the function a jaxpr was traced from, and (name, file, line) of it."""
    name, _, where = source_of(body).partition(" at ")
    file, _, line = where.rpartition(":")
    title = name if is_word(name) else "body"
    return title, (name, file, int(line)) if line.isdecimal() else None


def rule_of(eqn: Any) -> Any | None:
    """The registered rule that an equation calls."""
    body = custom_vjp_body(eqn)
    return None if body is None else registry.get(source_of(body).split(" at ")[0])


def _plain(node: Node) -> str:
    """The operation where there is no source to quote."""
    return f"{' '.join(map(_called, node.eqns))}({', '.join(p.name for p in node.parents)})"


def _called(eqn: Any) -> str:
    """What an equation calls: the rule, the jitted function or the one with a derivative of its own."""
    if (rule := rule_of(eqn)) is not None:
        return rule.name
    name = eqn.primitive.name
    if (named := custom_jvp_body(eqn)) is not None:
        name = named[0]
    elif (body := custom_vjp_body(eqn) or calls_of(eqn)) is not None:
        name = source_of(body).split(" at ")[0]
    return name.lstrip("_") if is_word(name) else eqn.primitive.name


def _words(place: Place, variable: tuple[str, int] | None) -> tuple[str, ...]:
    """What the program calls a result: its variable, and what else is assigned in a = b = ..."""
    if variable is None:
        return ()
    statement = place.execution.statement if place.execution is not None else None
    return (variable[0], *(statement.aliases if statement is not None else ()))


def _single(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: call(*arguments)[0]


def _tupled(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: tuple(call(*arguments))


def _by_execution(results: Sequence[tuple[Place, Any]], names: Sequence[str]) -> dict[Any, dict[Any, str]]:
    """The names of the results made in one execution of a statement, by the position of their expression."""
    found: dict[Any, dict[Any, str]] = {}
    for (place, part), name in zip(results, names, strict=True):
        if place.execution is not None and part is None:
            found.setdefault(place.execution, {})[place.position] = name
    return found
