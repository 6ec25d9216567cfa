"""The loop: lines, parts, scans, precision; what is killed goes on bit for bit; bad settings are one line."""

from __future__ import annotations

import json
import shutil
import struct

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import harness
from harness import optimizers

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

X = np.random.default_rng(0).standard_normal((24, 3)).astype(np.float32)
T = (X @ np.array([[1.0], [-2.0], [0.5]]) + 0.3 * X[:, :1] ** 2).astype(np.float32)


class Killed(KeyboardInterrupt):
    pass


def make_task(at_once=1, die_at=None, noise=0.0):
    taken = []

    def batch(chosen):
        taken.append(chosen)
        if len(taken) - 1 == die_at:
            raise Killed
        return {"x": X[chosen], "t": T[chosen]}

    def loss(p, batch, key):
        z = jnp.tanh(batch["x"] @ p["w"]) @ p["u"]
        return ((z - batch["t"]) ** 2).mean() + noise * jax.random.normal(key)

    def scores(p, batch):
        z = jnp.tanh(batch["x"] @ p["w"]) @ p["u"]
        return {"loss": ((z - batch["t"]) ** 2)[:, 0], "near": jnp.abs(z - batch["t"])[:, 0] < 0.5}

    def init(key):
        return {"w": jax.random.normal(key, (3, 4)), "u": jnp.full((4, 1), 0.5)}

    return harness.Task(init, loss, len(X), batch, scores, {"x": X[:10], "t": T[:10]}, at_once, test_batch=4)


def parser():
    return harness.training_parser(
        "trial", "a trial", steps=12, batch=8, learning_rate=0.05, evaluate_every=4, checkpoint_every=3
    )


@pytest.fixture
def train(tmp_path, read_metrics):
    """Trains in a folder of tmp_path; returns the status, what came of it, and the lines of the metrics."""

    def train(*argv, out="run", **task):
        found = {}

        def experiment(args, run, task):
            found["trained"] = harness.train(args, run, task)
            return 0

        arguments = [str(a) for a in (*argv, "--out", tmp_path / out)]
        found["status"] = harness.launch_training(
            lambda args: make_task(**task), parser(), arguments, experiment
        )
        return found["status"], found.get("trained"), read_metrics(tmp_path / out)

    return train


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_lines_tell_of_the_parameters_after_as_many_updates(train):
    _, trained, lines = train("--optimizer", "sgd", "--batch", "24")
    task = make_task()
    params = task.init(jax.random.key(0))
    for line in lines:
        loss = task.loss(params, {"x": X, "t": T}, jax.random.key(0))
        assert line["loss"] == pytest.approx(float(loss), rel=1e-5)
        if line["step"] % 4 == 0:
            expected = task.scores(params, task.test)
            assert line["test_loss"] == pytest.approx(float(expected["loss"].mean()), rel=1e-5)
            assert line["test_near"] == pytest.approx(float(expected["near"].mean()), rel=1e-5)
        if line["step"] < 12:
            bars = jax.grad(task.loss)(params, {"x": X, "t": T}, jax.random.key(0))
            params = jax.tree.map(lambda p, bar: p - 0.05 * bar, params, bars)
    assert [line["step"] for line in lines] == list(range(13))
    assert [line["step"] for line in lines if "test_loss" in line] == [0, 4, 8, 12]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), trained.params, params)
    assert trained.lines == lines


def test_several_steps_in_a_scan_are_the_same_steps(train, tmp_path):
    _, one, _ = train("--steps", 14, noise=0.01)
    _, many, _ = train("--steps", 14, "--checkpoint-every", 4, at_once=4, noise=0.01)
    np.testing.assert_allclose(many.losses, one.losses, rtol=1e-5)
    assert many.scores.keys() == {"test_loss", "test_near"}
    _, cut, _ = train("--steps", 14, "--checkpoint-every", 6, "--keep", 9, at_once=4, noise=0.01)
    assert sorted(int(p.name) for p in (tmp_path / "run/checkpoints").iterdir()) == [6, 12, 14]
    assert cut.losses == many.losses  # bit for bit, wherever the scans are cut


def test_a_batch_in_parts_is_the_same_batch(train):
    _, whole, _ = train("--clip", 0.5)
    _, parts, _ = train("--clip", 0.5, "--accumulate", 4)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-5)


def test_bfloat16_computes_in_it_and_keeps_float32(train):
    _, full, _ = train()
    _, half, _ = train("--precision", "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {np.dtype("float32")}
    differences = np.abs(np.array(half.losses) / full.losses - 1)
    assert 1e-5 < differences.max() < 0.05


def test_clipping_warmup_and_schedule_are_optax_s(train):
    argv = ["--optimizer", "sgd:momentum=0.9", "--schedule", "cosine:alpha=0.1", "--warmup", 3, "--clip", 0.1]
    _, trained, _ = train(*argv, "--batch", 24)
    rate = optax.join_schedules(
        [optax.linear_schedule(0.0125, 0.05, 3), optax.cosine_decay_schedule(0.05, 9, 0.1)], [3]
    )
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(rate, 0.9))
    task = make_task()
    states = harness.descend(
        lambda p, x, t: task.loss(p, {"x": x, "t": t}, jax.random.key(0)),
        task.init(jax.random.key(0)),
        optimizer,
        [(X, T)] * 13,
    )
    np.testing.assert_allclose(trained.losses, [s.loss for s in states], rtol=1e-5)


def test_an_optimizer_s_own_noise_is_the_seed_s():
    spec = optimizers.optimizer_spec("noisy_sgd:eta=0.5")  # without a key optax warns, and takes 0
    w = jnp.zeros(3)

    def step(seed):
        made = optimizers.optimizer(spec, optax.constant_schedule(0.1), clip=1.0, seed=seed)
        return made.update(w, made.init(w), w)[0]

    np.testing.assert_array_equal(step(2**32 - 1), step(2**32 - 1))
    assert (step(1) != step(0)).all()


def test_it_stops_when_it_has_converged(train, tmp_path):
    _, _, lines = train("--steps", 1000, "--converged", 0.2)
    steps = lines[-1]["step"]
    assert steps < 1000
    assert steps % 4 == 0
    before, now = (np.mean([line["loss"] for line in lines[steps - k : steps - k + 4]]) for k in (8, 4))
    assert (before - now) < 0.2 * before
    assert json.loads((tmp_path / "run/result.json").read_text())["steps"] == steps


# ---------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("die_at", [2, 7])
def test_a_killed_run_ends_where_it_would_have_ended(train, die_at, at_once, tmp_path):
    often = ["--checkpoint-every", 2]
    _, whole, lines = train(*often, out="whole", at_once=at_once, noise=0.01)
    status, _, _ = train(*often, at_once=at_once, noise=0.01, die_at=die_at)
    assert status == 130
    _, resumed, again = train(*often, "--resume", at_once=at_once, noise=0.01)
    same(resumed.params, whole.params)
    assert again == lines
    assert (tmp_path / "run/result.json").exists()


def test_an_unfinished_run_is_not_written_over(train, capsys, tmp_path):
    train(die_at=7)
    assert "--resume goes on from its last checkpoint" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        train()
    assert end.value.code == 2
    assert "holds the checkpoints of an unfinished run: --resume goes on with it" in capsys.readouterr().err
    train("--resume")
    train()  # a finished one is
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir()) == ["12", "6", "9"]


def test_a_corrupt_checkpoint_is_named_and_the_one_before_taken(train, capsys, tmp_path):
    _, whole, lines = train(out="whole")
    train(die_at=11)
    for path in (tmp_path / "run/checkpoints/9").rglob("*"):
        if path.is_file() and "/d/" in str(path):
            path.write_bytes(path.read_bytes()[:-7])
    _, resumed, again = train("--resume")
    out = capsys.readouterr().out
    assert "run/checkpoints/9 is not used: it cannot be read" in out
    assert "trial: resumed at step 6" in out
    same(resumed.params, whole.params)
    assert again == lines


def test_another_run_s_checkpoint_is_named_and_not_taken(train, capsys, tmp_path):
    train(die_at=7)
    (tmp_path / "run/settings.json").unlink()
    train("--resume", "--learning-rate", "0.01")
    out = capsys.readouterr().out
    assert "is not used: it is another run's: learning_rate 0.05, here 0.01" in out
    assert "trial: no checkpoint to resume from" in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--learning-rate", 0.01], "is another one: learning_rate 0.05, here 0.01"),
        (["--steps", 5], "has come to step 6, past --steps 5"),
    ],
    ids=["settings", "steps"],
)
def test_what_cannot_be_gone_on_with_stays_as_it_was(train, capsys, tmp_path, argv, said):
    train(die_at=7)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        train("--resume", *argv)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_more_steps_may_be_taken_later(train):
    _, whole, lines = train("--steps", 12, out="whole")
    train("--steps", 8)
    _, more, again = train("--steps", 12, "--resume")
    same(more.params, whole.params)
    assert [line["loss"] for line in again] == [line["loss"] for line in lines]


def test_the_last_ones_and_the_best_are_kept(train, tmp_path):
    train("--learning-rate", 0.3, "--keep", 2, "--steps", 24, "--evaluate-every", 3)
    kept = sorted(int(p.name) for p in (tmp_path / "run/checkpoints").iterdir())
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    best = min(lines[3::3], key=lambda line: line["test_loss"])
    assert kept == sorted({best["step"], 21, 24})


# ---------------------------------------------------------------------- what is told


def test_events_are_the_metrics(train, tmp_path):
    train(die_at=7)
    _, _, lines = train("--resume")
    expected = [
        (line["step"], name, np.float32(value))
        for line in lines
        for name, value in line.items()
        if name != "step"
    ]
    (path,) = (tmp_path / "run").glob("events.out.tfevents.*")
    assert sorted(events(path.read_bytes())) == sorted(expected)


def events(content):
    """(step, name, value) of every scalar in a file of: a length, its checksum, an event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found, at = [], 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        event = Event.FromString(content[at + 12 : at + 12 + length])
        found += [(event.step, value.tag, np.float32(value.simple_value)) for value in event.summary.value]
        at += 16 + length
    return found


def test_a_line_tells_where_it_comes_from(train, capsys):
    train("--seed", 3)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "; seed 3;" in line]
    for part in ("optimizer adam", "batch 8", f"jax {jax.__version__}", "overbar", "device cpu"):
        assert part in line


def test_divergence_is_one_line_and_status_1(train, capsys):
    status, _, lines = train("--steps", 400, "--learning-rate", "1e20", "--optimizer", "sgd")
    assert status == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert f"diverged at step {len(lines)}" in err
    assert f"the last finite loss was {lines[-1]['loss']:.6g}" in err


BAD = {
    ("--optimizer", "adm"): "optax has no optimizer 'adm'; is it adam?",
    ("--optimizer", "adam:b3=1"): "adam has no option 'b3'",
    ("--optimizer", "adam:b1=x"): "'x' is no number",
    ("--optimizer", "adam:b1=nan"): "expected a number from 0 to below 1 for b1, but came nan",
    ("--optimizer", "sgd:momentum=1"): "expected a number from 0 to below 1 for momentum, but came 1",
    ("--optimizer", "adamw:weight_decay=-1"): "expected a finite number of 0 or more for weight_decay",
    ("--optimizer", "sgd:nesterov=5"): "expected true or false for nesterov, but came 5",
    ("--optimizer", "adam:b1=0.9,b1=0.8"): "b1 is given twice",
    ("--optimizer", "rprop"): "rprop cannot be used here",
    ("--schedule", "one-cycle:div_factor=0"): "cannot be used: float division by zero",
    ("--schedule", "cosine:alpha=-1"): "expected a finite number of 0 or more for alpha, but came -1",
    ("--converged", "2"): "a number above 0 and below 1",
    ("--distributed", "--coordinator", "nonsense"): "--coordinator: expected HOST:PORT, but came 'nonsense'",
    ("--distributed", "--coordinator", "host:99999"): "--coordinator: expected HOST:PORT",
    ("--optimizer", "lbfgs"): "lbfgs cannot be used here",
    ("--schedule", "cosin"): "no schedule is called 'cosin'; there are constant, linear, cosine",
    ("--batch", "25"): "a batch of 25 cannot be taken from 24 examples",
    ("--batch", "0"): "a whole number of 1 or more",
    ("--batch", "9", "--accumulate", "2"): "a batch of 9 cannot be divided evenly",
    ("--mesh", "data=64"): "--mesh data=64 needs 64 devices, but there are 2",
    ("--mesh", "pipe=2"): "expected data=N, model=N or both",
    ("--mesh", "data=2", "--batch", "7"): "a batch of 7 cannot be divided evenly",
    ("--learning-rate", "-1"): "a finite number above 0",
    ("--precision", "float8"): "invalid choice: 'float8'",
    ("--clip", "0"): "a finite number above 0",
    ("--process", "1"): "--process is for --distributed runs",
}


@pytest.mark.parametrize("argv", BAD, ids=" ".join)
def test_bad_settings_are_one_line_before_anything_compiles(train, argv, capsys, tmp_path):
    compiled = []

    def listen(event, seconds, **_):
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with pytest.raises(SystemExit) as end:
            train(*argv)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert BAD[argv] in err
    assert compiled == []
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------- devices


@pytest.mark.parametrize("mesh", ["data=2", "model=2", "data=1,model=2"])
def test_a_mesh_takes_the_same_steps(train, mesh):
    _, one, _ = train("--accumulate", 2, noise=0.01)
    _, many, _ = train("--accumulate", 2, "--mesh", mesh, noise=0.01)
    np.testing.assert_allclose(many.losses, one.losses, rtol=1e-5)
    assert many.scores == pytest.approx(one.scores, rel=1e-5)


def test_a_run_goes_on_on_another_mesh(train, tmp_path):
    _, whole, _ = train(out="whole")
    train("--mesh", "data=2", die_at=7)
    _, resumed, _ = train("--mesh", "model=2", "--resume")
    np.testing.assert_allclose(resumed.losses, whole.losses, rtol=1e-5)
    shutil.rmtree(tmp_path / "run")
