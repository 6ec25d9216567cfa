"""`overbar show`: the columns, the pictures, the bar of the output, and that bad input gets a sentence."""

import importlib.util
import io
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import overbar
from overbar import cli

MODEL = """
    import sys, time
    import jax, jax.numpy as jnp

    def cost(w, b, x, t, lam=0.1):
        z = w * x + b
        y = jax.nn.sigmoid(z)
        L = 0.5 * (y - t) ** 2
        R = 0.5 * w**2
        L_reg = L + lam * R
        return L_reg

    def sample():
        return {"params": {"w": jnp.array([1.0, 2.0])}, "x": jnp.ones(2)}

    def pairs(params, x, power=2):
        print("pairs runs")
        y = params["w"] ** power
        n = jnp.argmax(y)
        return y, {"n": n, "z": jnp.sum(x)}

    def line(x):
        y = 2.0 * x
        return y

    def root(x):
        y = jnp.where(x > 0, jnp.sqrt(x), 0.0)
        return y

    def loop(x):
        y = jax.lax.while_loop(lambda c: c < 10, lambda c: c * 2, x)
        return y

    def index(x):
        n = jnp.argmax(x)
        return n

    def printing(x):
        jax.debug.print("{}", x)
        return x

    def choosing(x):
        return x if x > 0 else -x

    def nothing(x):
        return None

    def leaving(x):
        sys.exit(7)

    def sleeping(x):
        print("ready", file=sys.stderr, flush=True)
        time.sleep(60)
        return x
"""
LECTURE = ("cli_model:cost", "1.0", "0.5", "2.0", "1.0")


@pytest.fixture
def run(capsys, module):
    """Runs `overbar show ...` in this process: status, standard output and error."""
    module("cli_model.py", MODEL)

    def show(*argv):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            status = cli.main(["show", *argv])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return show


def files():
    return {path.name for path in Path().iterdir()} - {"cli_model.py", "cli_rules.py", "__pycache__"}


# ---------------------------------------------------------------------- columns


def test_the_lectures_columns_and_the_picture(run):
    status, out, err = run(*LECTURE)
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[0].split() == ["forward", "backward"]
    assert [line.split()[0] for line in lines[2:11]] == ["w", "b", "x", "z", "y", "t", "L", "R", "L_reg"]
    assert re.search(r"^z = w \* x \+ b = 2.5 +z̄ = ȳ y \(1 − y\) = -0.005318$", out, re.M)
    assert lines[-1] == "picture: cost.svg"
    assert files() == {"cost.svg"}
    drawn = Path("cost.svg").read_text("utf-8")
    assert drawn.startswith("<svg")
    assert "w̄ = z̄ x + R̄ w = 0.08936" in drawn


def test_the_columns_are_those_of_the_graph(run):
    _, out, _ = run(*LECTURE, "--level", "operation", "--no-picture")
    graph = overbar.make_graph(sys.modules["cli_model"].cost, level="operation")(1.0, 0.5, 2.0, 1.0)
    assert out == f"{graph}\n\n"
    assert len(graph) > 9
    assert files() == set()


def test_shapes_need_no_values(run):
    status, out, _ = run("cli_model:root", "f32[1000000,1000]", "--shapes", "--no-picture")
    assert status == 2  # the array itself is refused
    status, out, _ = run(*LECTURE, "--shapes", "--no-picture")
    assert status == 0
    assert "z̄ = ȳ y (1 − y) : float32[]" in out
    assert "2.5" not in out


def test_pytrees_keywords_and_several_outputs(run):
    status, out, err = run("cli_model:pairs", "--args", "sample", "--no-picture")
    assert (status, set(err.splitlines())) == (0, {"pairs runs"})
    assert "params.w : float32[2]" in out
    assert "The bar of the output is random, as it is no number: y float32[2], v₁ float32[]." in out
    _, out, _ = run("cli_model:line", "x=f32[2]", "--bar", "ones", "--no-picture")
    assert "x̄ = 2 ȳ : float32[2] ‖2.828‖" in out


def test_a_rule_brings_its_sample(run):
    status, out, _ = run("overbar.nn:softplus", "--no-picture")
    assert status == 0
    assert "nn.softplus(x)" in out


def test_loops_open_and_what_does_not_fit_is_folded(run):
    _, out, _ = run("cli_model:loop", "1.0", "--depth", "0", "--no-picture")
    assert "▾" not in out
    _, out, _ = run(*LECTURE, "--level", "operation", "--most", "4", "-o", "cost.mmd")
    assert "more; graph.text(most=...) shows them" in out
    assert "more" in Path("cost.mmd").read_text("utf-8")


def test_64_bit_types_for_the_run_only(run):
    assert "float64[2]" in run("cli_model:line", "f64[2]", "--no-picture")[1]
    assert not jax.config.jax_enable_x64


# ---------------------------------------------------------------------- the bar of the output


def bar_of_x(out):
    return re.search(r"x̄ = .* ‖(.*)‖$", out, re.M)[1]


def test_a_given_bar(run):
    assert bar_of_x(run("cli_model:line", "f32[2]", "--bar", "[3.0, 4]", "--no-picture")[1]) == "10"
    assert "x̄ = 2 ȳ = 6" in run("cli_model:line", "1.0", "--bar", "3", "--no-picture")[1]
    status, out, _ = run(
        "cli_model:pairs", "--args", "sample", "--bar", "([0., 0.], None, 2.)", "--no-picture"
    )
    assert status == 0
    assert bar_of_x(out) == "2.828"


def test_the_seed_decides_a_random_bar(run):
    seeds = ("0", "0", "1")
    first, again, other = (
        bar_of_x(run("cli_model:line", "f32[2]", "--seed", seed, "--no-picture")[1]) for seed in seeds
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["cli_model:line", "f32[2]", "--bar", "hello"], "is not ones, random, or a literal"),
        (["cli_model:line", "f32[2]", "--bar", "2.0"], "needs its bar, an array of shape (2,)"),
        (
            ["cli_model:pairs", "--args", "sample", "--bar", "1.0"],
            "a tuple with one for each of y float32[2]",
        ),
        (["cli_model:pairs", "--args", "sample", "--bar", "(1, 2)"], "returns 3 arrays"),
        (["cli_model:index", "f32[3]", "--bar", "ones"], "returns no float"),
    ],
)
def test_a_bar_that_does_not_fit_gets_a_sentence(run, argv, told):
    status, out, err = run(*argv)
    assert (status, out) == (2, "")
    assert told in err.splitlines()[-1]
    assert files() == set()


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("cli_model:loop", "has no derivative in reverse"),
        ("cli_model:index", "it returns no float, which alone has a bar, but n int32[]"),
        ("cli_model:nothing", "but nothing"),
    ],
)
def test_what_has_no_bars_is_shown_without(run, target, told):
    status, out, err = run(target, "f32[]" if "loop" in target else "f32[3]")
    assert (status, err.count("\n")) == (2, 1)
    assert f"{target} has no bars to show: " in err
    assert told in err
    assert "forward" in out
    assert "picture: " in out


# ---------------------------------------------------------------------- what is not finite


def test_nonfinite(run):
    status, out, err = run("cli_model:root", "0.0", "--nonfinite", "--no-picture")
    assert (status, err) == (1, "")
    assert "is the first to be NaN at " in out
    assert "usual cause: the unselected branch of where" in out
    status, out, _ = run("cli_model:root", "1.0", "--nonfinite", "--no-picture")
    assert (status, out.splitlines()[-1]) == (0, "finite: every value forward, every message backward")


# ---------------------------------------------------------------------- pictures


def test_several_pictures(run):
    status, out, _ = run(*LECTURE, "-o", "a.dot", "--save", "b.mmd")
    assert status == 0
    assert out.splitlines()[-2:] == ["picture: a.dot", "picture: b.mmd"]
    assert Path("a.dot").read_text("utf-8").startswith("digraph")
    assert Path("b.mmd").read_text("utf-8").startswith("flowchart")


def test_without_grandalf_the_picture_is_mermaid(run, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "grandalf" else find(name))
    assert run(*LECTURE)[1].splitlines()[-1] == "picture: cost.mmd"


def test_the_default_picture_takes_the_place_of_none_but_its_own(run):
    assert run(*LECTURE)[0] == 0
    assert run(*LECTURE)[0] == 0
    Path("cost.svg").write_text("my own drawing", "utf-8")
    status, _, err = run(*LECTURE)
    assert status == 2
    assert "cost.svg is there and is no picture of a graph: say with -o FILE" in err
    assert Path("cost.svg").read_text("utf-8") == "my own drawing"
    assert run(*LECTURE, "-o", "cost.svg")[0] == 0


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("nowhere/a.dot", "cannot be written: No such file"),
        (".", "suffix"),
        ("a.pdf", "the suffix says what"),
    ],
)
def test_what_cannot_be_written_gets_a_sentence(run, file, told):
    status, out, err = run(*LECTURE, "-o", file)
    assert (status, err.count("\n")) == (2, 1)
    assert told in err
    assert out.startswith("forward")


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["cli_model:cost", "1", "2", "3", "4"], "cost has no float input"),
        (["cli_model:printing", "1.0"], "printing has side effects (debug"),
        (["cli_model:choosing", "1.0"], "a branch in it depends on a value"),
        (["cli_model:cost", "1.0"], "it raises TypeError: cost() missing 3 required"),
        (["cli_model:leaving", "1.0"], "it raises SystemExit"),
        (["cli_model:line"], "no sample arguments are given for (x)"),
        (["cli_model:line", "f32[3"], "is no shape"),
        (["cli_model:line", "1.0", "--args", "sample"], "given twice"),
        (["cli_model:lime", "1.0"], "cli_model has no lime; is it "),
        (["cli_nowhere:f", "1.0"], "there is no module cli_nowhere"),
    ],
)
def test_what_cannot_be_shown_gets_a_sentence(run, argv, told):
    status, out, err = run(*argv)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"overbar: {argv[0]} cannot be shown: ")
    assert told in err
    assert files() == set()


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "FUNCTION"),
        (["m:f", "--level", "line"], "invalid choice"),
        (["m:f", "-o", "a.svg", "--no-picture"], "not allowed with"),
        (["m:f", "--shapes", "--nonfinite"], "not allowed with"),
        (["m:f", "--depth", "-1"], "must be 0 or more"),
        (["m:f", "--json"], "unrecognized arguments: --json"),
    ],
)
def test_bad_calls_get_a_sentence(run, argv, told):
    status, out, err = run(*argv)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_help(run):
    status, out, _ = run("--help")
    assert status == 0
    assert all(word in out for word in ("examples:", "f32[8,16]", "--bar", "--nonfinite", "exit status"))


# ---------------------------------------------------------------------- terminals and processes


def test_on_a_narrow_terminal_the_columns_stand_below_each_other(run, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = {}
    for columns in ("200", "60"):
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setattr(sys, "stdout", terminal := Terminal())
        run(*LECTURE, "--no-picture")
        shown[columns] = terminal.getvalue().splitlines()
    assert len(shown["200"]) == 12
    assert len(shown["60"]) == 2 * 12 - 2
    assert shown["60"][3:6] == ["w = 1", "    w̄ = z̄ x + R̄ w = 0.08936", "b = 0.5"]
    assert "\x1b" not in "".join(shown["60"])


def process(*argv, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "overbar.cli", "show", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        **options,
    )


def test_process_after_ctrl_c(run):
    task = process("cli_model:sleeping", "1.0")
    assert task.stderr.readline() == "ready\n"
    task.send_signal(signal.SIGINT)
    out, err = task.communicate(timeout=60)
    assert (task.returncode, out, err) == (130, "", "overbar: interrupted\n")


def test_process_whose_reader_has_gone_away(run):
    task = process(*LECTURE)
    task.stdout.close()
    assert task.wait(60) == 0
    assert task.stderr.read() == ""
    assert files() == {"cost.svg"}
    task.stderr.close()
