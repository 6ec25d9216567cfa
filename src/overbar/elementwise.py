"""Elementwise rules: a row each, the derivative by each input and its equation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from overbar import _draws as draws
from overbar._contract import RuleError, is_float
from overbar._dtypes import computing
from overbar._like import cast, summed_to
from overbar.rule import Rule, Sample, call_by_name, registry

P = ParamSpec("P")
R = TypeVar("R")
Form = Callable[..., Any]

__all__ = ["elementwise"]


def elementwise(
    derivative: Form | Mapping[str, Form],
    equation: str | Mapping[str, str],
    *,
    accurate: Form | None = None,
    keeps: Mapping[str, Form] | None = None,
    integers: Iterable[str] = (),
    reference: Callable[..., Any],
    kinks: Mapping[float, float] | None = None,
    samples: Callable[..., Iterable[Sample]] | None = None,
    name: str | None = None,
    replace: bool = False,
) -> Callable[[Callable[P, R]], Rule[P, R]]:
    """Makes a rule of an elementwise primal in one row: its derivative and its equation.

    The first parameter of the primal is the input, the others are options. The parameters of
    `derivative` say what is kept for backward, by name: the input ("x", or as the primal calls it),
    the output "y", and the options it uses. It returns one of three things:

      - the derivative, and the bar is ȳ times it;
      - a mask, and the bar is ȳ where it is true and 0 elsewhere, also for an infinite ȳ;
      - where it takes "y_bar" as well, the bar itself: it then chooses the order of the product,
        so that a derivative below the smallest normal number does not vanish before ȳ lifts it.

    What is smaller than an input and enough for the derivative, such as a mask of a byte a number,
    is declared in `keeps`, and the derivative takes it by its name.

    A primal of several inputs, which broadcast against each other, has a derivative and an equation
    for each of them, by name; its other parameters are options. An input that was broadcast gets
    the sum of the bars of its copies. One that may be left out is None in the derivatives then.

    Where an input is kept, float16 and bfloat16 are computed in float32 and rounded once. Where
    only y is kept they are not: y has been rounded already, and a wider product of it would differ
    from jax.grad without being nearer to the truth. A derivative that takes "half" is told by a boolean
    whether the bar is in half precision: then nothing of forward's float32 form is there to share.

    Args:
      derivative: see above; a dict from input to derivative where there are several inputs.
      equation: the equation of the bar, in bar notation; a dict where there are several.
      accurate: the derivative under `accuracy=jax.lax.AccuracyMode.HIGHEST`, an option the primal
        must then have, by its one input.
      keeps: name -> what to keep, by the inputs and options it takes.
      integers: inputs that may come as integers too, as in `rule`.
      reference: independent code for the primal, with its parameters.
      kinks: input value -> the derivative documented there.
      samples: by default, for one input, shapes from 0-d to empty and values from tiny to saturated.
      name, replace: as in `rule`.

    >>> import jax, jax.numpy as jnp
    >>> @elementwise(lambda y: y, "x̄ = ȳ y", reference=lambda x: jnp.e**x)
    ... def exp(x):
    ...     return jnp.exp(x)
    >>> float(jax.grad(exp)(0.0))
    1.0
    >>> @elementwise(
    ...     {"x": lambda b: b, "b": lambda x: x},
    ...     {"x": "x̄ = ȳ b", "b": "b̄ = Σ ȳ x"},
    ...     reference=lambda x, b: x / (1 / b),
    ...     samples=lambda key: [Sample("scalar", (2.0, 3.0))],
    ... )
    ... def scaled(x, b):
    ...     return x * b
    >>> float(jax.grad(lambda b: scaled(jnp.arange(4.0), b).sum())(2.0))
    6.0
    """

    def decorate(primal: Callable[P, R]) -> Rule[P, R]:
        parameters = tuple(inspect.signature(primal).parameters)
        one = parameters[0] if parameters else "x"
        forms = dict(derivative) if isinstance(derivative, Mapping) else {one: derivative}
        equations = {one: equation} if isinstance(equation, str) else dict(equation)
        takes = {n: tuple(inspect.signature(form).parameters) for n, form in forms.items()}
        takes_accurate = tuple(inspect.signature(accurate).parameters) if accurate else ()
        plain = {n for t in takes.values() for n in t}
        if len(forms) > 1:
            plain |= set(forms)  # each is kept, since its bar has its shape
        used = plain | set(takes_accurate)
        kept = [n for n in parameters if n in forms and n in used]
        described = {n: "the input" if len(forms) == 1 else f"the input {n}" for n in kept}
        if "y" in used:
            described["y"] = "the output, which the next operation keeps anyway"
        small = dict(keeps or {})
        described |= dict.fromkeys(small, "worked out from the inputs: smaller, and enough")
        static = [n for n in parameters if n not in forms]
        made = Rule(
            primal,
            bars=equations,
            residuals=described,
            static=static,
            arrays=tuple(forms),
            integers=tuple(integers),
            kinks=kinks,
            name=name,
        )
        _check_forms(made, set(forms), used, set(small), accurate is not None)

        def wants_accurate(options: Mapping[str, Any]) -> bool:
            return accurate is not None and options["accuracy"] is jax.lax.AccuracyMode.HIGHEST

        @made.forward
        def forward(**values: Any) -> Any:
            y = call_by_name(primal, values)
            wanted = takes_accurate if wants_accurate(values) else plain
            worked_out = {n: call_by_name(form, values) for n, form in small.items() if n in wanted}
            could = {**values, **worked_out, "y": y}
            return y, {n: could[n] if n in wanted else None for n in made.residuals}

        @made.backward
        def backward(residuals: Mapping[str, Any], y_bar: Any, **options: Any) -> Any:
            def bar(form: Form, wanted: tuple[str, ...], like: Any) -> Any:
                wide = y_bar.dtype if not set(wanted) & set(forms) else computing(y_bar.dtype)
                seen = {n: r if r is None or n in small else cast(r, wide) for n, r in residuals.items()}
                values = {**seen, **options, "y_bar": cast(y_bar, wide), "half": wide != y_bar.dtype}
                result = jnp.asarray(form(**{n: values[n] for n in wanted}))
                if result.dtype == bool:
                    result = jnp.where(result, values["y_bar"], jnp.zeros_like(values["y_bar"]))
                elif "y_bar" not in wanted:
                    result = values["y_bar"] * result
                return cast(summed_to(like.shape, result), like.dtype)

            if len(forms) == 1:
                if accurate is not None and wants_accurate(options):
                    return {one: bar(accurate, takes_accurate, like=y_bar)}
                return {one: bar(forms[one], takes[one], like=y_bar)}
            return {
                n: bar(form, takes[n], residuals[n])
                for n, form in forms.items()
                if residuals[n] is not None and is_float(residuals[n])
            }

        made.reference(reference)
        if samples is not None or len(forms) == 1:
            made.samples(samples or functools.partial(_elementwise_samples, tuple(made.kinks)))
        registry.add(made, replace=replace)
        return made

    return decorate


def _check_forms(
    made: Rule[..., Any], inputs: set[str], used: set[str], keeps: set[str], accurate: bool
) -> None:
    """Refuses derivatives that ask for what is not there, and names with two meanings."""
    own = {*inputs, *made.static}
    known = {*own, *keeps, "y", "y_bar", "half"}
    if taken := sorted((own | keeps) & {"y", "y_bar", "half"}):
        raise RuleError(
            f"rule {made.name}: y is the output, y_bar its bar, and half whether that is in half precision; "
            f"call {', '.join(taken)} otherwise."
        )
    if taken := sorted(own & keeps):
        raise RuleError(f"rule {made.name}: keeps {taken}, which are parameters of the primal.")
    if unknown := sorted(used - known):
        raise RuleError(f"rule {made.name}: derivative takes {unknown}, but there are {sorted(known)}.")
    if inputs != set(made.bars):
        raise RuleError(
            f"rule {made.name}: derivatives are given for {sorted(inputs)}, "
            f"equations for {sorted(made.bars)}."
        )
    if accurate and "accuracy" not in made.static:
        raise RuleError(
            f"rule {made.name}: accurate is for the option accuracy, which its primal does not have."
        )


def _elementwise_samples(kinks: tuple[float, ...], key: jax.Array) -> Iterator[Sample]:
    """Samples for any elementwise rule: each shape a network meets, each region of the function."""
    for number, shape in enumerate([(), (1,), (3, 4), (2, 1, 3), (0, 2)]):
        x = 3 * draws.normal(jax.random.fold_in(key, number), shape)
        yield Sample(f"shape {shape}", (x,))
    sign = draws.rademacher(key, (24,))
    yield Sample("near zero", (sign * 10.0 ** jnp.linspace(-6, -1, 24),))
    yield Sample("saturated", (jnp.linspace(-14.0, 14.0, 29) + 0.25,))
    if kinks:
        x = jnp.asarray(kinks, jnp.float32)
        yield Sample("kinks", (jnp.concatenate([x, x - 1, x + 1]),), tags=("kink",))
    yield Sample("bench", (draws.normal(key, (1024, 1024)),), tags=("bench",))
