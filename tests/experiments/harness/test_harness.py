"""The harness: flags, the run folder, progress, divergence, descent."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import harness
import overbar
from harness import stops
from overbar import nn


def make_parser():
    made = harness.parser("trial", "σ and w̄, 100 % of them", steps=4)
    harness.add_learning_rate(made, 0.5)
    harness.add_lambda(made, 0.0)
    return made


def launch(experiment, *argv):
    return harness.launch(experiment, make_parser(), [str(a) for a in argv])


def square(x, scale=1.0):
    return scale * x**2


# ---------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--steps", bad) for bad in ("0", "-1", "1.5", "many", "")),
        *(("--seed", bad) for bad in ("-1", str(2**32), "x")),
        *(("--learning-rate", bad) for bad in ("0", "-1", "nan", "inf", "1e300", "1e-60", "fast")),
        *(("--lambda", bad) for bad in ("-1", "nan", "inf", "1e39")),
        ("--out", ""),
        ("--out", __file__),
        ("--out", f"{__file__}/inside"),
        ("--step", "3"),
        ("--unknown", "3"),
    ],
)
def test_a_bad_argument_is_one_line_and_status_2(flag, value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        launch(lambda args, run: pytest.fail("the experiment has begun"), flag, value)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert flag in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taken", ["settings.json", "metrics.jsonl", "trial.png", "checkpoints"])
def test_an_out_that_cannot_be_written_is_one_line_and_status_2(taken, tmp_path, capsys):
    made = tmp_path / taken
    made.write_text("") if taken == "checkpoints" else made.mkdir()
    with pytest.raises(SystemExit) as end:
        launch(lambda args, run: pytest.fail("the experiment has begun"), "--out", tmp_path)
    assert end.value.code == 2
    assert f"cannot write to {tmp_path}" in capsys.readouterr().err


def test_the_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = {}
    assert launch(lambda args, run: seen.update(vars(args)) or 0) == 0
    expected = {
        "steps": 4,
        "seed": 0,
        "out": Path("runs/trial"),
        "autodiff": False,
        "learning_rate": 0.5,
        "lam": 0.0,
    }
    assert {name: seen[name] for name in expected} == expected
    assert (tmp_path / "runs/trial/settings.json").is_file()


# ---------------------------------------------------------------------- the run folder


def test_settings_tell_how_to_run_it_again(tmp_path):
    launch(lambda args, run: 0, "--seed", 7, "--out", tmp_path)
    settings = json.loads((tmp_path / "settings.json").read_text(encoding="utf-8"))
    assert settings["argv"] == ["--seed", "7", "--out", str(tmp_path)]
    assert settings["seed"] == 7
    assert settings["versions"]["jax"] == jax.__version__
    assert settings["versions"]["overbar"] == overbar.__version__
    assert settings["device"].startswith(jax.devices()[0].platform)


def test_a_second_run_starts_the_files_anew_and_leaves_others_alone(tmp_path, read_metrics):
    def first(args, run):
        run.record(0, 1.0)
        run.save(harness.paper(1, 1))
        return 0

    def second(args, run):
        assert not run.picture.exists()  # a picture of the first run would belie the second
        run.record(0, 2.0)
        return 0

    (tmp_path / "notes.txt").write_text("mine")
    assert launch(first, "--out", tmp_path) == launch(second, "--out", tmp_path) == 0
    assert read_metrics(tmp_path) == [{"step": 0, "loss": 2.0}]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_number_json_does_not_know_becomes_null(tmp_path, read_metrics):
    def experiment(args, run):
        run.record(0, 1.0, test_loss=float("nan"), other=float("-inf"))
        return 0

    launch(experiment, "--out", tmp_path)
    assert read_metrics(tmp_path) == [{"step": 0, "loss": 1.0, "test_loss": None, "other": None}]


def test_what_is_recorded_is_on_the_disk_at_once(tmp_path, read_metrics):
    def experiment(args, run):
        run.record(0, 1.0)
        assert read_metrics(tmp_path) == [{"step": 0, "loss": 1.0}]
        return 0

    launch(experiment, "--out", tmp_path)


# ---------------------------------------------------------------------- what a person sees


def test_without_a_terminal_progress_is_a_few_plain_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")

    def experiment(args, run):
        with run.progress(1000) as report:
            for step in range(1001):
                report(step, f"loss {step}")
        return 0

    launch(experiment, "--out", tmp_path)
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "trial:    0/1000  loss 0"
    assert re.fullmatch(r"trial:  500/1000  loss 500  \(\S+/s, \d+ s left\)", out.splitlines()[5])
    assert re.fullmatch(r"trial: 1000/1000  loss 1000  \(\S+/s\)", out.splitlines()[-1])
    assert len(out.splitlines()) == harness.PLAIN_LINES + 1
    assert "\x1b" not in out
    assert "\r" not in out


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_progress_is_a_bar(tmp_path, monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")

    def experiment(args, run):
        with run.progress(10) as report:
            report(10, "loss 0.5")
        return 0

    launch(experiment, "--out", tmp_path)
    assert "\x1b[" in screen.getvalue()
    assert "10/10" in screen.getvalue()
    assert "trial: 10/10" not in screen.getvalue()


def test_a_stdout_without_bars_gets_question_marks(tmp_path, monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)

    def experiment(args, run):
        run.say("w̄ = z̄ x")
        run.show("λ", ("", "w̄"), [("σ", "1")])
        return 0

    assert launch(experiment, "--out", tmp_path) == 0
    stdout.flush()
    assert b"w? = z? x" in stdout.buffer.getvalue()


# ---------------------------------------------------------------------- descent


def test_descent_yields_the_state_before_each_update():
    states = harness.descend(square, jnp.float32(1.0), optax.sgd(0.25), itertools.repeat(()))
    steps, losses, params = zip(*itertools.islice(states, 4), strict=True)
    assert steps == (0, 1, 2, 3)
    assert [float(p) for p in params] == [1.0, 0.5, 0.25, 0.125]
    assert losses == (1.0, 0.25, 0.0625, 0.015625)


def test_select_takes_the_rules_out_for_autodiff():
    rules = jax.make_jaxpr(harness.select(nn.sigmoid, autodiff=False))(1.0)
    twin = jax.make_jaxpr(harness.select(nn.sigmoid, autodiff=True))(1.0)
    assert "custom_vjp" in str(rules)
    assert "custom_vjp" not in str(twin)


def test_divergence_at_once_has_no_last_finite_loss():
    states = harness.descend(square, jnp.float32(1.0), optax.sgd(0.25), [(float("nan"),)])
    with pytest.raises(
        harness.Diverged, match="at step 0: the loss is nan; there was no finite loss"
    ) as caught:
        next(states)
    assert caught.value.last is None


def test_an_interruption_is_one_line(tmp_path, read_metrics, capsys):
    def experiment(args, run):
        run.record(0, 1.0)
        raise KeyboardInterrupt

    assert launch(experiment, "--out", tmp_path) == 130
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert len(read_metrics(tmp_path)) == 1


def test_an_interruption_before_it_began_is_one_line(tmp_path, capsys):
    def _xla_gc_callback():  # JAX's, where Python drops what is raised, with a traceback
        signal.raise_signal(signal.SIGINT)

    def load(args):
        _xla_gc_callback()

    def fail(args, run, loaded):
        pytest.fail("the experiment has begun")

    argv = ["--out", str(tmp_path)]
    assert harness.launch(fail, make_parser(), argv, load) == 130
    assert capsys.readouterr().err == "trial: interrupted before it began\n"
    stops.without_traceback(KeyboardInterrupt, KeyboardInterrupt(), None)  # of what is not even launched
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_interrupted_program_ends_at_once(tmp_path, monkeypatch):
    """JAX 0.10 would crash at the end of Python if it was compiling."""

    def experiment(args, run):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["trial.py", "--out", str(tmp_path)])
    monkeypatch.setattr(os, "_exit", lambda status: sys.exit(f"at once, {status}"))
    with pytest.raises(SystemExit, match="at once, 130"):
        harness.launch(experiment, make_parser(), None)


def test_what_jax_cannot_do_is_one_line(tmp_path, capsys):
    def experiment(args, run):
        raise jax.errors.JaxRuntimeError("Out of memory allocating 3200 bytes.\nand much more")

    assert launch(experiment, "--out", tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("trial: JAX: Out of memory allocating 3200 bytes.; what was written stays in")


def test_sigterm_is_one_line_and_comes_after_what_must_be_whole(tmp_path, read_metrics, capsys):
    def experiment(args, run):
        with stops.held_back():
            signal.raise_signal(signal.SIGTERM)
            run.record(0, 1.0)
        raise AssertionError("not reached")

    def dropped(args, run):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        stops.again()

    before = signal.getsignal(signal.SIGTERM)
    assert launch(experiment, "--out", tmp_path) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("trial: terminated; what was written stays in")
    assert len(read_metrics(tmp_path)) == 1
    assert launch(dropped, "--out", tmp_path) == 128 + signal.SIGINT


def test_two_runs_in_one_folder_are_refused(tmp_path, capsys):
    def nested(args, run):
        run.record(0, 1.0)
        with pytest.raises(SystemExit) as stopped:
            launch(lambda args, run: 0, "--out", tmp_path)
        assert stopped.value.code == 2
        return 0

    assert launch(nested, "--out", tmp_path) == 0
    assert "another run is writing into" in capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


def test_a_picture_is_written_whole_or_not_at_all(tmp_path):
    class Torn:
        def savefig(self, path, **_):
            path.write_bytes(b"half a picture")
            raise KeyboardInterrupt

    def draw(args, run):
        run.save(Torn())
        return 0

    assert launch(draw, "--out", tmp_path) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "settings.json"]


def test_experiments_are_in_float32_whatever_the_default(tmp_path):
    def experiment(args, run):
        assert jnp.zeros(()).dtype == jnp.float32
        return 0

    with jax.enable_x64(True):
        assert launch(experiment, "--out", tmp_path) == 0
