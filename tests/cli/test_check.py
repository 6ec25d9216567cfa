"""The command line: exit statuses, what is a sample argument, and that bad input gets a sentence."""

import json
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import overbar
from overbar import cli


@pytest.fixture
def run(capsys, module):
    """Runs `overbar check ... --effort quick` in this process: status, standard output and error."""

    def check(*argv, effort="quick"):
        status = cli.main(["check", *argv, "--effort", effort])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return check


@pytest.fixture
def seen(monkeypatch):
    """What arrives at overbar.check, which is not run."""
    calls = []

    def check(f, *args, like, intentional, effort, seed, time_limit, progress=None, **kwargs):
        calls.append((f, args, kwargs, like, seed, bool(jax.config.jax_enable_x64)))
        return overbar.Report("f", "correct", "", "")

    monkeypatch.setattr(overbar, "check", check)
    return calls


# ---------------------------------------------------------------------- verdicts


def test_correct_is_0(run):
    status, out, err = run("cli_rules:good", "f32[3]")
    assert (status, out.splitlines()[-1], err) == (0, "correct", "")


def test_wrong_is_1(run):
    status, out, _ = run("cli_rules:bad", "f32[3]")
    assert status == 1
    assert out.splitlines()[-1].endswith("a constant factor of 1/2")


def test_inconclusive_is_3(run, monkeypatch):
    monkeypatch.setattr(overbar, "check", lambda *_, **__: overbar.Report("f", "inconclusive", "noise", ""))
    assert run("cli_rules:good", "f32[3]")[0] == 3


def test_json_is_all_there_is_on_the_standard_output(run):
    status, out, err = run("cli_rules:seeded", "f32[3]", "f=f32[3]", "seed=f32[3]", "--json")
    report = json.loads(out)
    assert (status, report["verdict"], report["subject"]) == (0, "correct", "seeded")
    assert set(err.splitlines()) == {"f runs"}


def test_unchecked_as_json(run):
    status, out, err = run("cli_rules:plain", "f32[3]", "--json")
    report = json.loads(out)
    assert (status, report["checked"]) == (2, False)
    assert report["reason"] in err


def test_64_bit_types_for_the_run_only(run, seen):
    run("cli_rules:good", "f64[2,3]", "c128[2]")
    (_, (x, z), _, _, _, wide), *_ = seen
    assert (x.dtype, x.shape, z.dtype, wide) == ("float64", (2, 3), "complex128", True)
    assert not jax.config.jax_enable_x64
    run("cli_rules:good", "f32[2,3]")
    assert seen[1][-1] is False


def test_64_bit_check(run):
    assert run("cli_rules:bad", "f64[3]")[0] == 1


def test_like_and_intentional(run):
    assert run("cli_rules:through", "f32[3]")[0] == 1
    assert run("cli_rules:through", "f32[3]", "--like", "identity")[0] == 0
    assert run("cli_rules:through", "f32[3]", "--like", "cli_rules:identity")[0] == 0
    assert run("cli_rules:through", "f32[3]", "--intentional")[0] == 0


def test_a_rule_brings_its_samples(run, seen):
    assert run("overbar.regularizers:l2")[0] == 0
    assert seen[0][1][0].shape == (3, 4)


# ---------------------------------------------------------------------- finding the function


@pytest.mark.parametrize("target", ["cli_rules:Model.loss", "./cli_rules.py:good", "cli_rules.py:Model.loss"])
def test_targets(run, target):
    assert run(target, "f32[3]")[0] == 0


def test_a_file_in_a_package_is_imported_as_such(run, module):
    module("cli_pkg/__init__.py", "")
    module("cli_pkg/part.py", "from .rules import good as fine\nfrom cli_beside import nothing")
    module("cli_pkg/rules.py")
    module("cli_beside.py", "nothing = None")
    assert run("cli_pkg/part.py:fine", "f32[3]")[0] == 0
    assert run("cli_pkg.part:fine", "f32[3]")[0] == 0


def test_a_file_may_be_named_as_a_known_module(run, module, seen):
    module("json.py")
    assert run("./json.py:good", "f32[3]")[0] == 0
    assert sys.modules["json"] is json


def test_the_path_is_left_as_it_was(run):
    before = list(sys.path)
    run("./cli_rules.py:good", "f32[3]")
    assert sys.path == before


BAD_TARGETS = {
    "cli_nowhere.part:f": "there is no module cli_nowhere",
    "./nowhere.py:f": "there is no file ./nowhere.py",
    "cli_rules:goood": "cli_rules has no goood; is it good?",
    "cli_rules:Model.cost": "type has no cost",
    "cli_rules:number": "is no function, but of type int",
    "cli_rules": "names no function",
    "cli_rules:": "names no function",
    ":good": "names no function",
    "cli_broken:f": "importing cli_broken raises ValueError: in two (cli_broken.py, line 2)",
    "cli_syntax:f": "importing cli_syntax raises SyntaxError",
    "cli_leaves:f": "importing cli_leaves raises SystemExit",
    "cli_lacks:f": "importing cli_lacks raises ModuleNotFoundError: No module named 'cli_other'",
    "..:f": "importing .. raises",
    "a\0b:f": "a",
}


@pytest.mark.parametrize("target", BAD_TARGETS)
def test_bad_targets_get_a_sentence(run, module, target):
    module("cli_broken.py", "\nraise ValueError('in two\\nlines')")
    module("cli_syntax.py", "def f(:")
    module("cli_leaves.py", "import sys; sys.exit(0)")
    module("cli_lacks.py", "import cli_other")
    status, out, err = run(target, "f32[3]")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "cannot be checked" in err
    assert BAD_TARGETS[target] in err


# ---------------------------------------------------------------------- sample arguments


@pytest.mark.parametrize(
    ("text", "dtype", "shape"),
    [
        ("f32[8,16]", "float32", (8, 16)),
        ("f32[]", "float32", ()),
        ("bf16[4]", "bfloat16", (4,)),
        ("f16[2, 3]", "float16", (2, 3)),
        ("c64[4]", "complex64", (4,)),
        ("float32[0]", "float32", (0,)),
        ("bool[4]", "bool", (4,)),
        ("i8[3]", "int8", (3,)),
        ("u32[3]<4000000000", "uint32", (3,)),
    ],
)
def test_arrays(run, seen, text, dtype, shape):
    assert run("cli_rules:good", text)[0] == 0
    (x,) = seen[0][1]
    assert (x.dtype, x.shape) == (dtype, shape)


def test_integers_can_be_indices(run, seen):
    run("cli_rules:good", "f32[7,5]", "i32[2000]", "i32[2000]<3", "x=bf16[6,0]")
    _, i, j = seen[0][1]
    assert set(np.asarray(i).tolist()) == set(range(5))
    assert set(np.asarray(j).tolist()) == set(range(3))
    run("cli_rules:good", "f32[]", "i32[2000]", "u8[2000]")
    assert {int(i.max()) for i in seen[1][1][1:]} == {1}


def test_literals_keywords_and_keys(run, seen):
    texts = ["3", "-1e-3", "True", "None", "'a=b'", "(1, 2)", "key", "-inf", "x=key", "y=-2", "z= 'text'"]
    assert run("cli_rules:good", *texts)[0] == 0
    _, (*values, key, last), kwargs, *_ = seen[0]
    assert values == [3, -1e-3, True, None, "a=b", (1, 2)]
    assert last == float("-inf")
    assert jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    assert (kwargs["y"], kwargs["z"]) == (-2, "text")


def test_options_may_stand_between(run, seen):
    assert (
        run("--seed", "4", "cli_rules:good", "f32[3]", "--json", "-0.5", "--time-limit", "9", "f32[2]")[0]
        == 0
    )
    _, (x, half, z), _, _, seed, _ = seen[0]
    assert (x.shape, half, z.shape, seed) == ((3,), -0.5, (2,), 4)


def test_the_seed_decides(run, seen):
    for seed in ("0", "0", "1"):
        run("cli_rules:good", "f32[3]", "--seed", seed)
    first, again, other = (np.asarray(call[1][0]) for call in seen)
    assert (first == again).all()
    assert (first != other).all()


def test_keywords_named_as_options_of_the_check(run, seen):
    run("cli_rules:seeded", "f32[3]", "seed=2", "f=0.5")
    f, (_, seed, other), kwargs, *_ = seen[0]
    assert (seed, other, kwargs, f.__name__) == (2, 0.5, {}, "seeded")


@pytest.mark.parametrize("name", ["both", "keywords", "cli_rules:both"])
def test_args(run, seen, name):
    assert run("cli_rules:scaled", "--args", name)[0] == 0
    _, args, kwargs, *_ = seen[0]
    assert len(args) + len(kwargs) == 2
    assert kwargs["scale"] == 2


def test_args_positional(run):
    assert run("cli_rules:bad", "--args", "positional")[0] == 1


BAD_ARGUMENTS = {
    "f32[8,": "is no shape",
    "f32[-1]": "is no shape",
    "f32[a]": "is no shape",
    "f32[3,]": "is no shape",
    "f32": "is no shape",
    "f31[3]": "unknown dtype 'f31'",
    "f32[3]<4": "< is for integers",
    "i32[3]<": "positive whole number",
    "i32[3]<0": "positive whole number",
    "i32[3]<x": "positive whole number",
    "u8[3]<300": "the largest uint8 is 255",
    "relu": "a text is written",
    "1 +": "no Python literal",
    "": "no Python literal",
    "f32[99999,99999]": "too large",
    "f32[" + ",".join("1" * 99) + "]": "",
}


@pytest.mark.parametrize("text", BAD_ARGUMENTS)
def test_bad_arguments_get_a_sentence(run, text):
    status, out, err = run("cli_rules:good", text)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert BAD_ARGUMENTS[text] in err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["cli_rules:good"], "no sample arguments are given for (x)"),
        (
            ["cli_rules:good", "--args", "failing"],
            "failing raises RuntimeError: no data (cli_rules.py, line ",
        ),
        (["cli_rules:good", "--args", "array"], "must return a tuple"),
        (["cli_rules:good", "--args", "nothing"], "cli_rules has no nothing"),
        (["cli_rules:good", "f32[3]", "--args", "both"], "given twice"),
        (["cli_rules:good", "x=f32[3]", "x=f32[3]"], "given twice"),
        (["cli_rules:good", "f32[3]", "--like", "cli_nowhere:f"], "no module cli_nowhere"),
        (["cli_rules:scaled", "f32[3]"], "the function raises AssertionError"),
        (["cli_rules:leaving", "f32[3]"], "SystemExit"),
        (["cli_rules:plain", "f32[3]"], "no custom_vjp rule was found"),
        (["cli_rules:good", "f32[3]", "f32[3]"], "the function raises TypeError"),
        (["cli_rules:good", "f32[3]", "y=f32[3]"], "the function raises TypeError"),
    ],
)
def test_what_cannot_be_checked_gets_a_sentence(run, argv, told):
    status, out, err = run(*argv)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["check"], "FUNCTION"),
        (["check", "m:f", "--sed", "1"], "unrecognized arguments: --sed"),
        (["check", "m:f", "--seed", "-1"], "must be from 0"),
        (["check", "m:f", "--time-limit", "nan"], "positive number of seconds"),
        (["check", "m:f", "--effort", "slow"], "invalid choice"),
        (["rules", "nn.sigmoid", "nn.relu"], "unrecognized arguments"),
        (["rules", "sigmoid"], "there is no rule sigmoid; is it nn.sigmoid"),
        (["chek"], "invalid choice"),
    ],
)
def test_bad_calls_get_a_sentence(capsys, argv, told):
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert told in err


# ---------------------------------------------------------------------- help and rules


def test_help(capsys):
    assert cli.main([]) == 0
    assert "check" in capsys.readouterr().out
    assert cli.main(["check", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("examples:", "f32[8,16]", "--time-limit", "exit status"))
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"overbar {overbar.__version__}\n"


def test_rules(capsys):
    assert cli.main(["rules"]) == 0
    told = capsys.readouterr().out
    for name, rule in overbar.registry.items():
        assert name in told
        assert all(text in told for text in [*rule.bars.values(), *rule.residuals])


def test_rules_as_json(capsys):
    assert cli.main(["rules", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(overbar.registry)


def test_one_rule(capsys):
    assert cli.main(["rules", "nn.sigmoid"]) == 0
    assert overbar.nn.sigmoid.__doc__.splitlines()[0] in capsys.readouterr().out
    assert cli.main(["rules", "nn.sigmoid", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["bars"] == overbar.nn.sigmoid.bars
    assert row["doc"]


# ---------------------------------------------------------------------- as a process


def process(*argv, code=None):
    command = ["-c", code] if code else ["-m", "overbar.cli"]
    return subprocess.Popen(
        [sys.executable, *command, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def test_process_says_what_is_missing_in_one_line(module):
    task = process("check", "cli_nowhere:f", "f32[3]")
    out, err = task.communicate(timeout=60)
    assert (task.returncode, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("overbar: cli_nowhere:f cannot be checked: there is no module cli_nowhere")


def test_process_ends_what_does_not_end(module):
    code = "import sys; from overbar.cli import main, worker; worker.GRACE = (0.2, 0.2); sys.exit(main())"
    task = process("check", "cli_rules:sleeping", "f32[3]", "--time-limit", "0.3", "--json", code=code)
    out, err = task.communicate(timeout=60)
    assert task.returncode == 2
    assert json.loads(out)["reason"].startswith("takes too long")
    assert "cli_rules:sleeping cannot be checked: takes too long" in err
    assert "Traceback" not in err


def test_process_after_ctrl_c(module):
    task = process("check", "cli_rules:sleeping", "f32[3]")
    assert task.stderr.readline() == "ready\n"
    task.send_signal(signal.SIGINT)
    out, err = task.communicate(timeout=60)
    assert (task.returncode, out, err) == (130, "", "overbar: interrupted\n")
