"""`overbar show`: backpropagation through a function, as text and as a picture."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from overbar.cli.find import importable
from overbar.cli.options import count
from overbar.cli.output import CANNOT, Refused, complain, leave, raised, say
from overbar.cli.sample import Call
from overbar.cli.subject import TARGET_HELP, Subject, add_subject, subject_of
from overbar.cli.worker import in_worker

if TYPE_CHECKING:
    from overbar.graph import Graph, Node

HELP = f"""\
Shows backpropagation through a function: prints the two columns, forward and backward in bar
notation, with the values of a sample, and writes the graph as a picture.

{TARGET_HELP}"""

END = """\
examples:
  overbar show ./model.py:cost 1.0 0.5 2.0 1.0
  overbar show my_package.layers:attention --args sample -o attention.html
  overbar show overbar.nn:softplus f32[4] --bar ones --no-picture

exit status: 0 shown, 1 something is NaN or infinite (--nonfinite), 2 cannot be shown, 130 after Ctrl-C"""

NONFINITE = 1


def add(commands: Any) -> None:
    brief = "show backpropagation through a function, as text and as a picture"
    show = commands.add_parser("show", help=brief, description=HELP, epilog=END)
    show.set_defaults(run=_run)
    add_subject(show)
    where = show.add_mutually_exclusive_group()
    where.add_argument(
        "-o",
        "--save",
        metavar="FILE",
        action="append",
        help="the picture, by its suffix .svg, .html (a page that steps through the passes), .dot or .mmd; "
        "may be given several times; default: the function's name with .svg, in the current folder",
    )
    where.add_argument("--no-picture", action="store_true", help="write no picture")
    show.add_argument(
        "--level",
        choices=("statement", "operation"),
        default="statement",
        help="one node a statement of the source, or one an operation; default: statement",
    )
    bars = show.add_mutually_exclusive_group()
    bars.add_argument(
        "--bar",
        metavar="BAR",
        help="of the output: ones, random, or a Python literal of its shape, such as 2.0 or '[1.0, 0.0]'; "
        "for several outputs a tuple; default: 1 for a number, else random",
    )
    bars.add_argument(
        "--shapes", action="store_true", help="show types instead of values and bars; nothing is computed"
    )
    bars.add_argument(
        "--nonfinite", action="store_true", help="find what first turns NaN or infinite, and the usual cause"
    )
    show.add_argument(
        "--depth", type=count, default=1, metavar="N", help="levels of loops, branches, calls; default: 1"
    )
    show.add_argument(
        "--most",
        type=count,
        metavar="N",
        help="lines and nodes before the middle is folded; default: 60, 200",
    )


def _run(options: argparse.Namespace) -> int:
    """`overbar show`. What the function prints goes to the standard error."""
    out = sys.stdout

    def too_long(reason: str) -> None:
        complain(_told(options, reason))
        leave(CANNOT)

    with importable(Path.cwd()), contextlib.redirect_stdout(sys.stderr):
        try:
            subject = subject_of(options, too_long)
            return in_worker(lambda: _shown(options, subject, out))
        except Refused as error:
            raise Refused(_told(options, str(error))) from error


def _told(options: argparse.Namespace, reason: str) -> str:
    return f"{options.target} cannot be shown: {reason}"


def _shown(options: argparse.Namespace, subject: Subject, out: TextIO) -> int:
    """Prints the columns, writes the pictures, and looks for what is not finite."""
    from overbar.graph import find_nonfinite, make_graph

    with subject.types():
        call = subject.arguments()
        if options.shapes:
            call = _shapes(call)
        graph: Graph = _done(make_graph(subject.f, level=options.level), call)
        note = missing = ""
        if not options.shapes:
            _done(graph.forward, Call((), {}))
            try:
                note = _backprop(graph, options)
            except Refused as error:
                if options.bar:
                    raise
                missing = str(error)  # the columns and the picture can be shown without
        most = {} if options.most is None else {"most": options.most}
        width = shutil.get_terminal_size().columns if out.isatty() else None
        text = _done(graph.text, Call((), {"depth": options.depth, "width": width, **most}))
        say(f"{text}\n", out)
        if note:
            say(note, out)
        for file in _files(options, graph):
            _save(graph, file, most)
            say(f"picture: {file}", out)
        if missing:
            complain(f"{options.target} has no bars to show: {missing}")
            return CANNOT
        if not options.nonfinite:
            return 0
        found = _done(find_nonfinite(subject.f), call)
        say(str(found) if found else "finite: every value forward, every message backward", out)
        return NONFINITE if found else 0


def _done(f: Callable[..., Any], call: Call) -> Any:
    """What the call gives; what goes wrong in it as a sentence."""
    from overbar.graph import GraphError

    try:
        return f(*call.args, **call.kwargs)
    except GraphError as error:
        raise Refused(str(error)) from error
    except (Exception, SystemExit) as error:
        raise Refused(f"it raises {raised(error)}") from error


def _shapes(call: Call) -> Call:
    """The arguments without their values; Python numbers that are no inputs stay."""
    import jax
    import numpy as np

    def shape(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | float | complex):
            return leaf
        return jax.eval_shape(lambda: jax.numpy.asarray(leaf))

    args, kwargs = jax.tree.map(shape, (call.args, call.kwargs))
    return Call(args, kwargs)


# ---------------------------------------------------------------------- the bar of the output


def _backprop(graph: Graph, options: argparse.Namespace) -> str:
    """Sends the bar of the outputs back; returns what there is to say about it."""
    floats = [node for node in graph.outputs if node.is_float]
    if not floats:
        raise Refused(f"it returns no float, which alone has a bar, but {_types(graph.outputs) or 'nothing'}")
    is_number = len(graph.outputs) == 1 and floats[0].shape == ()
    kind = options.bar or ("ones" if is_number else "random")
    if kind in ("ones", "random"):
        bars = [_drawn(node, kind, options.seed + i) for i, node in enumerate(graph.outputs)]
    else:
        bars = _literal(graph, kind)
    _done(graph.backprop, Call((bars[0] if len(bars) == 1 else tuple(bars),), {}))
    if is_number or options.bar:
        return ""
    return (
        f"The bar of the output is random, as it is no number: {_types(floats)}. "
        "--bar ones is for the gradient of its sum."
    )


def _types(nodes: Sequence[Node]) -> str:
    return ", ".join(f"{node.symbol} {node.dtype}[{','.join(map(str, node.shape))}]" for node in nodes)


def _drawn(node: Node, kind: str, seed: int) -> Any:
    import jax
    import jax.numpy as jnp

    if not node.is_float:
        return None
    if kind == "ones":
        return jnp.ones(node.shape, node.dtype)
    return jax.random.normal(jax.random.key(seed), node.shape, node.dtype)


def _literal(graph: Graph, text: str) -> list[Any]:
    """The bars that a Python literal gives: one array, or for several outputs one each."""
    import numpy as np

    try:
        value = ast.literal_eval(text)
        if len(graph.outputs) == 1:
            return [np.asarray(value, graph.outputs[0].dtype)]
        return [bar if bar is None else np.asarray(bar) for bar in value]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        fitting = "" if len(graph.outputs) == 1 else f", a tuple with one for each of {_types(graph.outputs)}"
        raise Refused(f"--bar {text} is not ones, random, or a literal of numbers{fitting}") from error


# ---------------------------------------------------------------------- the pictures


def _files(options: argparse.Namespace, graph: Graph) -> list[str]:
    """Where the pictures go; by default a file by the function's name, in the place of none but a picture."""
    if options.no_picture:
        return []
    if options.save:
        return list(options.save)
    drawn = importlib.util.find_spec("grandalf") is not None  # which lays out an SVG; Mermaid needs nothing
    file = Path(f"{graph.name}.svg" if drawn else f"{graph.name}.mmd")
    with contextlib.suppress(OSError, UnicodeError):
        if not file.read_text("utf-8")[:200].startswith(("<svg", "flowchart")):
            raise Refused(f"{file} is there and is no picture of a graph: say with -o FILE where to write it")
    return [str(file)]


def _save(graph: Graph, file: str, most: dict[str, int]) -> None:
    try:
        _done(graph.save, Call((file,), most))
    except Refused as error:
        if isinstance(cause := error.__cause__, OSError):
            raise Refused(f"{file} cannot be written: {cause.strerror or cause}") from cause
        raise
