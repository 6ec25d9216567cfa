"""optax's optimizers and schedules by name: `adamw:b2=0.99,weight_decay=0.1`, `cosine:alpha=0.1`."""

from __future__ import annotations

import argparse
import difflib
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[Any], Any]


def exponential(rate: float, steps: int, end: float = 0.01) -> Schedule:
    return optax.exponential_decay(rate, steps, end)


def linear(rate: float, steps: int, end: float = 0.0) -> Schedule:
    return optax.linear_schedule(rate, end * rate, steps)


def cosine(rate: float, steps: int, alpha: float = 0.0, exponent: float = 1.0) -> Schedule:
    return optax.cosine_decay_schedule(rate, steps, alpha, exponent)


def one_cycle(rate: float, steps: int, pct_start: float = 0.3, div_factor: float = 25.0) -> Schedule:
    return optax.cosine_onecycle_schedule(steps, rate, pct_start, div_factor)


def constant(rate: float, steps: int) -> Schedule:
    return optax.constant_schedule(rate)


# Each is a function of the rate, the steps that it has for all of its course, and its options.
SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
    "one-cycle": one_cycle,
}


# Options that are the share of what was before: from 1 on, what an optimizer keeps grows without end.
SHARES = {"b1", "b2", "b3", "decay", "rho", "momentum", "pct_start"}


def optimizer_spec(text: str) -> str:
    """An optimizer of optax, for argparse; one that needs more than the gradient is refused."""
    name, options = _parsed(text)
    if name.startswith("_") or not (_takes_a_rate(getattr(optax, name, None))):
        raise argparse.ArgumentTypeError(f"optax has no optimizer {name!r}{_meant(name)}")
    _check_options(name, getattr(optax, name), options, skip=1)
    like = {"w": jax.ShapeDtypeStruct((2, 2), jnp.float32)}
    try:
        made = _made(name, options, optax.constant_schedule(0.1), seed=0)
        jax.eval_shape(lambda w: made.update(w, made.init(w), w), like)
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise argparse.ArgumentTypeError(f"{text} cannot be used here: {first}") from None
    return text


def schedule_spec(text: str) -> str:
    """A schedule, for argparse."""
    name, options = _parsed(text)
    if name not in SCHEDULES:
        raise argparse.ArgumentTypeError(f"no schedule is called {name!r}; there are {', '.join(SCHEDULES)}")
    _check_options(name, SCHEDULES[name], options, skip=2)
    try:
        SCHEDULES[name](0.1, 100, **options)
    except (ArithmeticError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be used: {str(error).splitlines()[0]}") from None
    return text


def schedule(spec: str, rate: float, steps: int, warmup: int = 0) -> Schedule:
    """The learning rate as a function of the step; it rises evenly to its full size in the first `warmup`."""
    name, options = _parsed(spec)
    course = SCHEDULES[name](rate, max(1, steps - warmup), **options)
    if not warmup:
        return course
    return optax.join_schedules([optax.linear_schedule(rate / (warmup + 1), rate, warmup), course], [warmup])


def optimizer(
    spec: str, rate: Schedule, *, clip: float | None = None, accumulate: int = 1, seed: int = 0
) -> optax.GradientTransformation:
    """The optimizer of that name, on the mean of `accumulate` gradients with its norm clipped.

    One that draws at random does so from the seed.
    """
    name, options = _parsed(spec)
    made = _made(name, options, rate, seed)
    if clip is not None:
        made = optax.chain(optax.clip_by_global_norm(clip), made)
    return optax.MultiSteps(made, accumulate).gradient_transformation() if accumulate > 1 else made


def _made(name: str, options: Mapping[str, Any], rate: Schedule, seed: int) -> optax.GradientTransformation:
    make = getattr(optax, name)
    if "key" in inspect.signature(make).parameters:
        options = {"key": seed, **options}
    return make(rate, **options)


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            told = f"expected NAME=NUMBER after the colon, but came {part!r}"
            raise argparse.ArgumentTypeError(f"{text}: {told}")
        if key.strip() in options:
            raise argparse.ArgumentTypeError(f"{text}: {key.strip()} is given twice")
        options[key.strip()] = _value(text, value)
    return name, options


def _value(text: str, value: str) -> Any:
    if value in ("true", "false"):
        return value == "true"
    try:
        return float(value) if any(c in value for c in ".enaif") else int(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: {value!r} is no number") from None


def _takes_a_rate(found: Any) -> bool:
    """Whether this is an optimizer: what has the learning rate first, and is no part of one."""
    if not inspect.isfunction(found) or found.__name__.startswith("scale_by"):
        return False
    return next(iter(inspect.signature(found).parameters), None) == "learning_rate"


def _check_options(name: str, function: Callable[..., Any], options: Mapping[str, Any], skip: int) -> None:
    known = dict(list(inspect.signature(function).parameters.items())[skip:])
    for option, value in options.items():
        if option not in known:
            there = ", ".join(known) or "none"
            raise argparse.ArgumentTypeError(f"{name} has no option {option!r}; it has {there}")
        wanted, fits = _wanted(option, known[option].default)
        if not fits(value):
            raise argparse.ArgumentTypeError(f"{name}: expected {wanted} for {option}, but came {value}")


def _wanted(option: str, default: Any) -> tuple[str, Callable[[Any], bool]]:
    """What values an option has, in words, and whether a value is one of them."""
    if isinstance(default, bool):
        return "true or false", lambda value: isinstance(value, bool)
    if option in SHARES:
        return "a number from 0 to below 1", lambda value: _is_from_0(value, below=1)
    return "a finite number of 0 or more", lambda value: _is_from_0(value, below=math.inf)


def _is_from_0(value: Any, below: float) -> bool:
    return not isinstance(value, bool) and 0 <= value < below


def _meant(name: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = [n for n in dir(optax) if not n.startswith("_") and _takes_a_rate(getattr(optax, n, None))]
    close = difflib.get_close_matches(name, known, 1)
    return f"; is it {close[0]}?" if close else ""
