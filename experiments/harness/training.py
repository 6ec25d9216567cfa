"""The loop that trains: steps, evaluations, checkpoints, and what is told of them.

A run is decided by its settings alone: the batches, keys and the order of everything follow from the seed
and the number of the step. One that was killed and is resumed ends bit for bit where it would have ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from harness import stops
from harness.data import Batches
from harness.devices import Placement
from harness.figures import draw_scores, paper
from harness.flags import BadSetting
from harness.ledger import Ledger
from harness.runs import RESULT, SETTINGS, Run, launch, settings_of
from harness.stepping import Evaluator, Stepper
from harness.tasks import Task, Trained

# What does not decide the course of a run: it may be resumed with another of these.
DEVICES = {"mesh", "distributed", "coordinator", "processes", "process", "patience", "device", "versions"}
FREE = {"argv", "out", "resume", "keep", "checkpoint_every", "converged"} | DEVICES


def check(args: argparse.Namespace, task: Task) -> Task:
    """Looks whether the settings fit the task and the machine, before anything is compiled.

    Raises:
      BadSetting, DataError: they do not; one line that says why.
    """
    Batches(task.examples, args.batch, args.seed)
    devices = Placement(args.mesh).axis("data")
    if args.batch % (args.accumulate * devices):
        raise BadSetting(
            f"a batch of {args.batch} cannot be divided evenly into {args.accumulate} × {devices} parts "
            "(--accumulate, devices)"
        )
    if args.resume:
        _check_resumed(args)
    return task


def _check_resumed(args: argparse.Namespace) -> None:
    """Looks whether the run in the folder is this one, and has steps to come.

    What cannot be read there is left to the checkpoints, which tell whose they are.
    """
    try:
        before = json.loads((args.out / SETTINGS).read_text(encoding="utf-8"))
        there, here = _owner(before), _owner(settings_of(args))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return
    steps = [int(path.name) for path in (args.out / "checkpoints").glob("*") if path.name.isdecimal()]
    if steps and (other := sorted(name for name in here if there.get(name) != here[name])):
        told = ", ".join(f"{name} {there.get(name)!r}, here {here[name]!r}" for name in other)
        raise BadSetting(f"--resume: the run in {args.out} is another one: {told}")
    if steps and args.steps < max(steps):
        raise BadSetting(
            f"--resume: the run in {args.out} has come to step {max(steps)}, past --steps {args.steps}"
        )


def _owner(settings: dict[str, Any]) -> dict[str, Any]:
    """What decides the course of a run, of its settings."""
    owner = {name: value for name, value in settings.items() if name not in FREE}
    if owner["schedule"] == "constant":
        del owner["steps"]  # more of them may be taken
    return owner


def train(args: argparse.Namespace, run: Run, task: Task) -> Trained:
    """Trains for args.steps steps, or until it has converged, and leaves metrics, checkpoints and a result.

    Line k of the metrics is of the parameters after k updates: the loss of the batch that comes next, and
    at every evaluation the scores.

    Raises:
      Diverged: the loss is NaN or infinite.
      OSError: something cannot be written.
    """
    placement = Placement(args.mesh)
    stepper, evaluate = Stepper(args, task, placement), Evaluator(args, task, placement)
    state, start, batches = stepper.begin(), 0, Batches(task.examples, args.batch, args.seed)
    run.say(_provenance(run))
    with contextlib.ExitStack() as stack:
        checkpoints = _checkpoints(run, args, stack)
        if checkpoints and args.resume:
            if found := checkpoints.restore(state):
                start, state, batches = found.step, found.state, batches.resumed(found.place)
            run.say(f"{run.name}: {f'resumed at step {start}' if found else 'no checkpoint to resume from'}")
        ledger = stack.enter_context(Ledger(run, start))
        report = stack.enter_context(run.progress(args.steps, start))
        step, chosen, began = start, iter(batches), time.monotonic()
        while True:
            stops.again()
            ends, scores = step == args.steps, {}
            if ends or step % args.evaluate_every == 0:
                ledger.settle()
                scores = evaluate(state.params)
                ends |= ledger.converged(args.evaluate_every, args.converged)
            if checkpoints and checkpoints.due(step, ends):
                ledger.settle()
                checkpoints.save(step, state, batches.place(), scores.get("test_loss", ledger.last))
            if ends:
                break
            taken = [task.batch(next(chosen)) for _ in range(min(stepper.at_once, args.steps - step))]
            state, losses = stepper.take(state, taken, step)
            ledger.settle()  # of the steps before, while these are being computed
            if step > start:
                report(step, ledger.note)
            ledger.expect(step, losses, scores)
            step += len(taken)
        ledger.expect(step, stepper.losses(state, task.batch(next(chosen)), step), scores)
        ledger.settle()
        report(step, ledger.note)
        seconds = time.monotonic() - began
    result = {"steps": step, "of": args.steps, "steps_here": step - start, "seconds_here": seconds}
    run.write(RESULT, json.dumps({**result, **ledger.lines[-1], "settings": run.settings}, indent=2) + "\n")
    return Trained(placement.whole(state.params), ledger.lines)


def experiment(args: argparse.Namespace, run: Run, task: Task) -> int:
    """Trains, draws the curves and says the scores: what most experiments are."""
    trained = train(args, run, task)
    draw(run, trained)
    told = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in trained.scores.items())
    run.say(f"{run.name}: {told} after {trained.lines[-1]['step']} steps")
    return 0


def launch_training(
    task: Callable[[argparse.Namespace], Task],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    experiment: Callable[[argparse.Namespace, Run, Task], int] = experiment,
) -> int:
    """Launches what trains a task, once its settings have been looked at; returns the exit status."""
    return launch(experiment, parser, argv, lambda args: check(args, task(args)))


def draw(run: Run, trained: Trained) -> None:
    """Draws the losses and the scores."""
    figure = paper(10, 4)
    draw_scores(figure, trained.lines)
    run.save(figure)


def _checkpoints(run: Run, args: argparse.Namespace, stack: contextlib.ExitStack) -> Any:
    """The checkpoints of the run; None where it neither makes any nor goes on from one."""
    every = max(1, args.steps // 10) if args.checkpoint_every is None else args.checkpoint_every
    if not every and not args.resume:
        return None
    from harness.checkpoints import Checkpoints  # slow to import

    made = Checkpoints(run.checkpoints, _owner(run.settings), every=every, keep=args.keep, tell=run.say)
    return stack.enter_context(made)


def _provenance(run: Run) -> str:
    """One line that tells where results come from."""
    settings = dict(run.settings)
    versions = ", ".join(f"{name} {version}" for name, version in settings.pop("versions").items())
    rest = (
        f"{name} {value}"
        for name, value in settings.items()
        if name not in ("argv", "name", "out", "patience") and value not in (None, False)
    )
    return f"{run.name}: {'; '.join(rest)}; {versions}"
