"""From the equations of a jaxpr to the nodes of a graph, in order and named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, Var, jaxpr_as_fun

from overbar._adapter import program
from overbar.graph import cones
from overbar.graph.expressions import Known, expression
from overbar.graph.kinds import kind_of, plain
from overbar.graph.local import OFTEN
from overbar.graph.model import Group, Node, inexact
from overbar.graph.names import Variables, unique
from overbar.graph.source import Activation, Place
from overbar.graph.symbols import symbol

if TYPE_CHECKING:
    from overbar.graph.graph import Graph


class Build:
    """The nodes of a graph.

    Attributes:
      order, inputs, outputs: as `Graph` has them.
      idle: the variables that the result does not depend on, with their types.
    """

    def __init__(
        self, graph: Graph, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[tuple[str, Any]]
    ) -> None:
        self.graph = graph
        constants = {v: Literal(c, v.aval) for v, c in zip(jaxpr.constvars, consts, strict=True)}

        def known(v: Any) -> Any:
            return constants.get(v, v) if isinstance(v, Var) else v

        eqns = [eqn.replace(invars=[known(v) for v in eqn.invars]) for eqn in jaxpr.eqns]
        outputs = [known(v) for v in jaxpr.outvars]
        places = [self.graph._reader.place(eqn) for eqn in eqns]
        alone = [kind_of(eqn, self.graph._reader.home) != "operation" for eqn in eqns]
        labels = [place.execution if self.graph.level == "statement" else None for place in places]
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
        self.idle = self._variables_of_no_use(eqns, places, found)
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
            others = positions.get((place.execution, place.turn), {})
            mine = {p: symbol_ for p, symbol_ in others.items() if symbol_ != node.name}
            words = [(word, p.name) for p in dict.fromkeys(node.parents) for word in spoken.get(p, ())]
            doubled = Counter(word for word, _ in words)
            local = {word: name for word, name in words if doubled[word] == 1}
            final = variables.is_final(number) or results[number][1] is not None or len(cone.results) > 1
            item = variables.unpacked(number)
            names_known = Known(mine, local, [p.name for p in dict.fromkeys(node.parents)], taken)
            node.operation = expression(place, final, item, names_known, plain(node))
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
        node = Node(name, symbol(name), "input", "", (), (v.aval,), False, self.graph, given=value)
        node.needs_bar = inexact(v.aval)
        return node

    def _constant(self, literal: Any, taken: set[str]) -> Node:
        name = unique([None], list(taken))[0]
        node = Node(
            name,
            symbol(name),
            "constant",
            str(np.asarray(literal.val)),
            (),
            (literal.aval,),
            False,
            self.graph,
        )
        node.program = lambda: jnp.asarray(literal.val, literal.aval.dtype)
        return node

    def _part(self, whole: Node, i: int, v: Any, name: str) -> Node:
        node = Node(name, symbol(name), "part", f"{whole.name}[{i}]", (whole,), (v.aval,), False, self.graph)
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
            kind_of(last, self.graph._reader.home),
            "",
            tuple(parents),
            tuple(v.aval for v in results),
            several,
            self.graph,
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


class _Groups:
    """Numbers the calls of the user's functions."""

    def __init__(self) -> None:
        self._groups: dict[Activation, Group] = {}
        self._names: set[str] = set()
        self._counts: Counter[str] = Counter()

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
            name = activation.name
            while name in self._names:  # the numbers go on where they were left off
                self._counts[activation.name] += 1
                name = f"{activation.name}_{self._counts[activation.name] + 1}"
            self._names.add(name)
            self._groups[activation] = Group(name)
        return self._groups[activation]


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
            found.setdefault((place.execution, place.turn), {})[place.position] = name
    return found
