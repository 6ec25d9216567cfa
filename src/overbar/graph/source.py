"""The user's own source: which statement an equation was traced in, and which execution of it.

JAX keeps for every equation the stack of calls it was traced under, down to the instruction. Here
the calls are picked out that stand in the user's own files, and each is looked up in the parsed file.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from overbar._adapter import frames_of, traced_at
from overbar.graph.statements import Position, Statement, position_of, statement_at, within

Frame = tuple[Any, int]  # a code object and the offset of an instruction in it

_PACKAGE = str(Path(__file__).resolve().parents[1])
_JAX = str(Path(jax.__file__).parent)
_STDLIB = tuple(str(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))
_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
_LIBRARIES = tuple(f"{path}/" for path in (_JAX, _PACKAGE, *_STDLIB))


@dataclass(eq=False)
class Activation:
    """One call of a function of the user's: a group of the graph that opens and closes.

    Attributes:
      name: the function's, or for a method `__call__` its class's.
      caller: the execution of the statement that called it; None for the graph's own function.
      position: the call in that statement.
      code: the function's code object.
      direct: whether no function of a library lies between the two.
      turn: which item of a comprehension it was called for.
    """

    name: str
    caller: Execution | None
    position: Position | None = None
    code: Any = None
    direct: bool = True
    turn: int = 0

    @property
    def depth(self) -> int:
        return 0 if self.caller is None else 1 + self.caller.activation.depth


@dataclass(eq=False)
class Execution:
    """One execution of one statement: what makes the equations of a node belong together.

    Attributes:
      statement: which.
      activation: the call of a function it happened in.
      turns: how many items a comprehension in it has gone through so far.
    """

    statement: Statement | None
    activation: Activation
    turns: int = 0


@dataclass(eq=False)
class Place:
    """Where an equation was traced.

    Attributes:
      execution: the execution of the innermost statement of the user's; None where there is no source.
      position: the expression in it.
      file, line: for messages.
      turn: for which item of a comprehension it is evaluated.
    """

    execution: Execution | None = None
    position: Position | None = None
    file: str | None = None
    line: int | None = None
    turn: int = 0


@dataclass
class _Level:
    frame: Frame
    execution: Execution
    position: Position
    started: Frame  # where the first equation of this call was traced


@dataclass
class Home:
    """Which files are the user's: all but the libraries', the function's own package excepted.

    Attributes:
      package: the directory or file of the function the graph is made of.
    """

    package: str | None = None
    _known: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, f: Callable[..., Any]) -> Home:
        code = _code_of(f)
        if code is None:
            return cls()
        parts = Path(code.co_filename).parts
        for directory in ("site-packages", "dist-packages"):
            if directory in parts:
                return cls(str(Path(*parts[: parts.index(directory) + 2])))
        return cls(code.co_filename)

    def __contains__(self, file: str) -> bool:
        if file not in self._known:
            self._known[file] = self._is_users(file)
        return self._known[file]

    def _is_users(self, file: str) -> bool:
        if file.startswith("<frozen") or file.startswith(_JAX + "/"):
            return False
        if self.package is not None and (file == self.package or file.startswith(self.package + "/")):
            return True
        if "site-packages" in file or "dist-packages" in file:
            return False
        return not file.startswith(_LIBRARIES)


def _code_of(f: Callable[..., Any]) -> Any | None:
    with contextlib.suppress(ValueError):
        f = inspect.unwrap(f)
    while isinstance(f, functools.partial):
        f = f.func
    if not hasattr(f, "__code__") and not hasattr(f, "__func__") and callable(f):
        f = inspect.unwrap(vars(type(f)).get("__call__") or type(f).__call__)
    return getattr(getattr(f, "__func__", f), "__code__", None)


class Reader:
    """Reads off, for the equations of one jaxpr in their order, where each was traced.

    A statement in a loop is traced again and again by the same instructions; a step back, or the
    same stack of calls once more, tells that a new execution of it began.

    Args:
      home: which files are the user's.
      entry: the code object of the function whose calls count, or (name, file, line) of it.
    """

    def __init__(self, home: Home, entry: Any, name: str):
        self.home, self.entry = home, entry
        self.root = Activation(name, None)
        self._levels: list[_Level] = []
        self._direct: list[bool] = []
        self._below: list[Frame] = []
        self._at: list[Position] = []
        self._found: dict[Frame, Statement | None] = {}
        self._last: tuple[Any, Place] = (None, Place())

    def place(self, eqn: Any) -> Place:
        at = traced_at(eqn)
        if at is None or at is not self._last[0]:
            self._last = at, self._place(eqn)
        return self._last[1]  # of one call, whose equations look like a loop's that came round again

    def _place(self, eqn: Any) -> Place:
        frames = self._since_entry(frames_of(eqn))
        users = [i for i, (code, _) in enumerate(frames) if code.co_filename in self.home]
        named = [i for i in users if not frames[i][0].co_name.startswith("<")]
        chosen = named or [i for i in users if frames[i][0].co_name == "<module>"]
        if not chosen:
            self._levels, self._below = [], []
            return self._sourceless([frames[i] for i in users])
        path = [frames[i] for i in chosen]
        self._direct = [True, *(here + 1 == after for here, after in itertools.pairwise(chosen))]
        self._at = [self._position(frames, i) for i in chosen]
        below = frames[chosen[-1] + 1 :]
        self._enter(path, below)
        last = self._levels[-1]
        file, line = path[-1][0].co_filename, last.position[0]
        if last.execution.statement is None:
            return Place(None, None, file, line)
        return Place(last.execution, last.position, file, line, last.execution.turns)

    def _position(self, frames: list[Frame], i: int) -> Position:
        """The expression in a call of a function; one in a comprehension stands in frames of its own."""
        statement, found = self._statement(frames[i]), _location(frames[i])
        for frame in frames[i + 1 :]:
            code, here = frame[0], _location(frame)
            inside = statement is not None and within(here, position_of(statement.node))
            if (
                code.co_name not in _COMPREHENSIONS
                or code.co_filename != frames[i][0].co_filename
                or not inside
            ):
                break
            found = here
        return found

    @staticmethod
    def _sourceless(users: list[Frame]) -> Place:
        if not users:
            return Place()
        return Place(None, None, users[-1][0].co_filename, _location(users[-1])[0])

    def _since_entry(self, frames: list[Frame]) -> list[Frame]:
        if isinstance(self.entry, tuple):
            for i, (code, _) in enumerate(frames):
                if (code.co_name, code.co_filename, code.co_firstlineno) == self.entry:
                    return frames[i:]
            return frames
        for i in reversed(range(len(frames))):
            if frames[i][0] is self.entry:
                return frames[i + 1 :]
        return frames

    def _statement(self, frame: Frame) -> Statement | None:
        if frame not in self._found:
            self._found[frame] = statement_at(frame[0].co_filename, _location(frame))
        return self._found[frame]

    def _enter(self, path: list[Frame], below: list[Frame]) -> None:
        """Brings the stack of executions from the last equation's to this one's."""
        old, kept = self._levels, 0
        while kept < min(len(old), len(path)) and old[kept].frame == path[kept]:
            old[kept].position = self._at[kept]
            kept += 1
        if kept == len(path) == len(old):
            level = self._loop_above(kept)
            if level is not None and _steps_back(self._below, below) and self._may_begin_again(level):
                self._renew(level, path)
        elif kept < min(len(old), len(path)) and old[kept].frame[0] is path[kept][0]:
            self._move(kept, path)
        else:  # other calls from the same instruction
            self._push(path, old[:kept])
        self._below = below

    def _move(self, level: int, path: list[Frame]) -> None:
        """The same function at another instruction: further on, back by a loop, or called again."""
        old, frame = self._levels[level], path[level]
        statement, here = self._statement(frame), self._at[level]
        back = frame[1] < old.frame[1]
        if statement is not None and statement is old.execution.statement:
            if not back or statement.repeats_at(here):
                old.execution.turns += back
                self._push(path, [*self._levels[:level], _Level(frame, old.execution, here, old.started)])
                return
            if not statement.loops and (above := self._loop_above(level)) is not None:
                self._renew(above, path)
                return
            self._again(level, path)
            return
        ours = statement.loops if statement else ()
        theirs = old.execution.statement.loops if old.execution.statement else ()
        if back and not set(ours) & set(theirs):  # no loop of its own leads back: it was called again
            above = self._loop_above(level)
            if above is not None:
                self._renew(above, path)
            elif level:
                self._push(path, self._levels[:level])
            else:
                self._again(level, path)
            return
        self._again(level, path)

    def _again(self, level: int, path: list[Frame]) -> None:
        """A new execution at a level, in the same call of its function."""
        execution = Execution(self._statement(path[level]), self._levels[level].execution.activation)
        started = self._levels[level].started
        kept = [*self._levels[:level], _Level(path[level], execution, self._at[level], started)]
        self._push(path, kept)

    def _renew(self, level: int, path: list[Frame]) -> None:
        """A new execution at the level of the loop; in a comprehension new calls below it."""
        at = self._levels[level]
        if at.execution.statement is not None and at.execution.statement.repeats_at(at.position):
            at.execution.turns += 1
            at.position = self._at[level]
            self._push(path, self._levels[: level + 1])
        else:
            self._again(level, path)

    def _push(self, path: list[Frame], kept: list[_Level]) -> None:
        levels = list(kept)
        for frame in path[len(levels) :]:
            if levels:
                caller = levels[-1]
                name = _function_name(frame[0])
                direct = self._direct[len(levels)]
                turn = caller.execution.turns
                activation = Activation(name, caller.execution, caller.position, frame[0], direct, turn)
            else:
                activation = self.root
            position = self._at[len(levels)]
            levels.append(_Level(frame, Execution(self._statement(frame), activation), position, frame))
        self._levels = levels

    def _may_begin_again(self, level: int) -> bool:
        """Whether the calls below a loop's level can be over and begun anew, with nothing traced elsewhere.

        Else a library went back in its own code.
        """
        loop = self._levels[level].execution.statement
        if loop is not None and loop.loops and not loop.is_alone:
            return False
        return all(
            at.started == at.frame and (at.execution.statement is None or at.execution.statement.is_last)
            for at in self._levels[level + 1 :]
        )

    def _loop_above(self, levels: int) -> int | None:
        """The innermost of the first levels that a loop or a comprehension can repeat."""
        for level in reversed(range(min(levels, len(self._levels)))):
            at = self._levels[level]
            statement = at.execution.statement
            if statement is None:
                continue
            if statement.loops_itself_at(at.position):
                return None
            if statement.loops or statement.repeats_at(at.position):
                return level
        return None


@functools.lru_cache(maxsize=4096)
def _positions(code: Any) -> list[Any]:
    return list(code.co_positions())


def _location(frame: Frame) -> Position:
    code, offset = frame
    line, last, column, last_column = _positions(code)[offset // 2]
    return (line or code.co_firstlineno, column or 0, last or line or 0, last_column or 0)


def line_of(code: Any, offset: int) -> int:
    """The line of an instruction."""
    return _location((code, offset))[0]


def _steps_back(old: list[Frame], new: list[Frame]) -> bool:
    """Whether the calls below the user's repeat or go back, so that a loop must lie around them."""
    for (code, at), (other, now) in zip(old, new, strict=False):
        if code is not other:
            return False
        if at != now:
            return now < at
    return True


def _function_name(code: Any) -> str:
    *outer, name = code.co_qualname.split(".")
    if name in ("__call__", "forward", "apply") and outer and outer[-1] != "<locals>":
        return str(outer[-1])
    return str(name)
