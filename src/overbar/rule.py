"""One rule, declared in one place: the only file that touches `jax.custom_vjp`.

A rule is a function with a hand-derived backward pass. It is declared in five pieces that stand
together, the primal first:

>>> import jax, jax.numpy as jnp
>>> from overbar import Sample, rule
>>> @rule(bars={"x": "x̄ = ȳ 3x²"}, residuals={"x": "the input"})
... def cube(x):
...     return x * x * x
>>> @cube.forward
... def cube_forward(x):
...     return cube.primal(x), {"x": x}
>>> @cube.backward
... def cube_backward(residuals, y_bar):
...     x = residuals["x"]
...     return {"x": y_bar * 3 * x * x}
>>> @cube.reference
... def cube_reference(x):
...     return x**3
>>> @cube.samples
... def cube_samples(key):
...     yield Sample("vector", (jax.random.normal(key, (5,)),))

It is called as the plain function is, and `jax.grad` goes through the hand-derived backward:

>>> float(jax.grad(cube)(2.0))
12.0

`forward` and `backward` make a rule callable; `reference` and `samples` let tests, benchmarks and
tables find it in the `registry`. Inside forward and backward call `.primal` of another rule, never
the rule itself: `jax.hessian` differentiates them forward, and JAX refuses that for a custom_vjp
function. For the same reason `jax.jvp` of a rule raises.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, TypeVar

import jax

from overbar._adapter import vary_over, varying_axes
from overbar._asked import Kept, asked_bars, asked_inputs, keep, whole_bar
from overbar._contract import (
    RuleError,
    as_arrays,
    check_bars,
    check_forward,
    check_input,
    check_option,
)

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["Registry", "Rule", "RuleError", "Sample", "registry", "rule"]


@dataclass(frozen=True)
class Sample:
    """Arguments on which a rule is tested, checked and timed.

    Args:
      name: what is particular about it, for test ids and reports.
      args: the positional arguments: float arrays in float32, tests cast them to other dtypes.
      options: the keyword arguments.
      tags: words that select it, such as "bench" (a realistic size) or "kink" (holds a point
        where the derivative jumps, so that differences are not taken there).

    >>> Sample("scalar", (1.0,), tags=("tiny",)).name
    'scalar'
    """

    name: str
    args: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    tags: Collection[str] = ()


class Registry(Mapping[str, "Rule[..., Any]"]):
    """All rules by name, in the order of declaration. Read it as a dict.

    >>> from overbar import nn, registry
    >>> registry["nn.sigmoid"] is nn.sigmoid
    True
    """

    def __init__(self) -> None:
        self._rules: dict[str, Rule[..., Any]] = {}

    def __getitem__(self, name: str) -> Rule[..., Any]:
        return self._rules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def add(self, rule: Rule[..., Any], *, replace: bool = False) -> None:
        """Enters a rule; a name that is taken is refused unless it is to be replaced."""
        if rule.name in self._rules and not replace:
            raise RuleError(
                f"rule {rule.name!r} is registered twice: first at {_where(self._rules[rule.name].primal)}, "
                f"now at {_where(rule.primal)}. Name one of them otherwise, or pass replace=True."
            )
        self._rules[rule.name] = rule

    def remove(self, name: str) -> None:
        """Takes a rule out again, for tests and notebooks."""
        del self._rules[name]


registry = Registry()


class Rule(Generic[P, R]):
    """A function with a hand-derived backward pass; made by `rule` or `overbar.elementwise`.

    Calling it calls a `jax.custom_vjp` function whose name in a jaxpr is `Rule.name`.

    Attributes:
      name: the name in the registry, in jaxprs and in errors: the module (without "overbar." and
        without the file inside a package) and the function, such as "nn.sigmoid".
      primal: the plain function, no derivative attached.
      bars: input name -> the equation of its bar, in bar notation.
      residuals: residual name -> what it is and why it is kept.
      static: the names of the options: hashable Python values that are no inputs.
      arrays: the names of the inputs that must be one array, no pytree.
      integers: the names of the inputs with a bar that may come as integers too, and then have none.
      kinks: for an elementwise rule, input value -> the derivative that is documented there.
      parts: the pieces declared so far, by name: "forward", "backward", "reference", "samples".
    """

    __name__: str
    __qualname__: str

    def __init__(
        self,
        primal: Callable[P, R],
        *,
        bars: Mapping[str, str],
        residuals: Mapping[str, str],
        static: Collection[str] = (),
        arrays: Collection[str] = (),
        integers: Collection[str] = (),
        kinks: Mapping[float, float] | None = None,
        name: str | None = None,
    ) -> None:
        self.__name__ = self.__qualname__ = name or "rule"  # where the primal, a partial, has none
        functools.update_wrapper(self, primal)
        self.primal = primal
        self.name = name or _public_name(primal)
        for what, given in (("bars", bars), ("residuals", residuals)):
            if not isinstance(given, Mapping):
                raise RuleError(
                    f"rule {self.name}: {what} must be a dict from names to texts, but came {given!r}."
                )
        self.bars = dict(bars)
        self.residuals = dict(residuals)
        self.static = (static,) if isinstance(static, str) else tuple(static)
        self.arrays = (arrays,) if isinstance(arrays, str) else tuple(arrays)
        self.integers = (integers,) if isinstance(integers, str) else tuple(integers)
        self.kinks = dict(kinks or {})
        self.parts: dict[str, Callable[..., Any]] = {}
        self.signature = inspect.signature(primal)
        self.inputs = tuple(p for p in self.signature.parameters if p not in self.static)
        self._check_declaration()

    # ------------------------------------------------------------------ declaring

    def forward(self, fn: F) -> F:
        """Declares forward: the primal's parameters -> (y, {residual: value}); None is not kept."""
        self._expect_parameters(fn, "forward", tuple(self.signature.parameters))
        return self._declare("forward", fn)

    def backward(self, fn: F) -> F:
        """Declares backward: (residuals, y_bar, the options it uses) -> {input: bar}."""
        names = tuple(self._signature(fn, "backward").parameters)
        unknown = [n for n in names[2:] if n not in self.static]
        if len(names) < 2 or (unknown and not _takes_any(fn)):
            raise RuleError(
                f"rule {self.name}: backward takes (residuals, y_bar) and then options from "
                f"{self.static}, but is declared with {names}."
            )
        return self._declare("backward", fn)

    def reference(self, fn: F) -> F:
        """Declares the reference: independent code, differentiated by JAX, that never calls the rule."""
        self._expect_parameters(fn, "reference", tuple(self.signature.parameters))
        return self._declare("reference", fn)

    def samples(self, fn: F) -> F:
        """Declares the samples: a PRNG key -> an iterable of Sample. Completes the rule."""
        self._signature(fn, "samples")
        return self._declare("samples", fn)

    @property
    def missing(self) -> tuple[str, ...]:
        """The pieces not declared yet; a rule that ships lacks none.

        >>> from overbar import nn
        >>> nn.sigmoid.missing
        ()
        """
        return tuple(p for p in ("forward", "backward", "reference", "samples") if p not in self.parts)

    def _signature(self, fn: Callable[..., Any], part: str) -> inspect.Signature:
        if not callable(fn):
            raise RuleError(f"rule {self.name}: {part} must be a function, but came {fn!r}.")
        return inspect.signature(fn)

    def _declare(self, part: str, fn: F) -> F:
        if part in self.parts:
            raise RuleError(
                f"rule {self.name}: {part} is declared twice, first at {_where(self.parts[part])}."
            )
        self.parts[part] = fn
        return fn

    def _expect_parameters(self, fn: Callable[..., Any], part: str, expected: tuple[str, ...]) -> None:
        names = tuple(self._signature(fn, part).parameters)
        if set(names) != set(expected) and not _takes_any(fn):
            raise RuleError(
                f"rule {self.name}: {part} must take the primal's parameters {expected}, "
                f"but is declared with {names}."
            )

    def _check_declaration(self) -> None:
        parameters = self.signature.parameters
        for p in parameters.values():
            if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                raise RuleError(
                    f"rule {self.name}: parameter {str(p)!r} has no name of its own; "
                    "write each input and option out, or pass a pytree."
                )
        if unknown := [n for n in self.static if n not in parameters]:
            raise RuleError(f"rule {self.name}: static names {unknown} are no parameters of {self._call()}.")
        for what, names in (("a bar", self.bars), ("an array", self.arrays), ("integers", self.integers)):
            if unknown := [n for n in names if n not in self.inputs]:
                are = f"but the inputs are {list(self.inputs)}"
                raise RuleError(f"rule {self.name}: {what} is declared for {unknown}, {are}.")
        if not self.bars:
            raise RuleError(f"rule {self.name}: incomplete declaration: no bar is declared for any input.")

    # ------------------------------------------------------------------ calling

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        inputs, options = self.bind(*args, **kwargs)
        if undeclared := [p for p in ("forward", "backward") if p not in self.parts]:
            raise RuleError(
                f"rule {self.name}: incomplete declaration: {' and '.join(undeclared)} not declared. "
                f"Write @{self.__name__}.{undeclared[0]} above a function, or call {self.__name__}.primal."
            )
        # Under shard_map a bar is typed as its input is: to vary over the same axes of the mesh. Inputs are
        # made to vary alike here, outside the rule, where JAX itself adds the sum over those axes.
        alike = vary_over(tuple(inputs.values()), varying_axes(tuple(inputs.values())))
        return self._custom_vjp(options)(*alike)

    def bind(self, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Splits a call's arguments into inputs (leaves made arrays) and static options, both by name.

        >>> from overbar import nn
        >>> inputs, options = nn.sigmoid.bind(0.5)
        >>> options
        {'accuracy': None}
        """
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise RuleError(f"rule {self.name}: {error}; call it as {self._call()}.") from None
        bound.apply_defaults()
        given = bound.arguments
        options = {n: check_option(self.name, n, given[n]) for n in self.static}
        inputs = {n: self._checked_input(n, given[n]) for n in self.inputs}
        return inputs, options

    def _checked_input(self, name: str, value: Any) -> Any:
        if value is None:
            if self.signature.parameters[name].default is None:
                return None
            raise RuleError(
                f"rule {self.name}: input {name} is None, but is not optional; call it as {self._call()}."
            )
        wants = {"array": name in self.arrays, "bar": name in self.bars, "integers": name in self.integers}
        return check_input(self.name, name, value, **wants)

    def _call(self) -> str:
        """The call as a person writes it, without the annotations."""
        bare = [p.replace(annotation=p.empty) for p in self.signature.parameters.values()]
        return f"{self.__name__}{inspect.Signature(bare)}"

    def __repr__(self) -> str:
        return f"<rule {self.name}: {'; '.join(self.bars.values())}>"

    def __reduce__(self) -> str:
        # By reference, as a function: models that hold a rule can be copied and pickled.
        return self.__qualname__

    # ------------------------------------------------------------------ the custom_vjp

    def _custom_vjp(self, options: Mapping[str, Any]) -> Callable[..., Any]:
        """The custom_vjp function for these options. Made at each call: equal options are not always the
        same ((1,) and (1.0,), 0.0 and −0.0), and nothing a caller passed is kept alive."""

        def primal(*inputs: Any) -> Any:
            return call_by_name(self.primal, {**self._named(as_arrays(inputs)), **options})

        def forward(*perturbed: Any) -> Any:
            inputs, known = asked_inputs(perturbed)
            # Traced first, so that the primal's own checks speak before forward's arithmetic does.
            expected = jax.eval_shape(primal, *inputs)
            result = call_by_name(self.parts["forward"], {**self._named(as_arrays(inputs)), **options})
            y, residuals = check_forward(self.name, result, expected, tuple(self.residuals))
            return y, keep(residuals, y, known, functools.partial(bars_of, known.specs()))

        def backward(kept: Kept, y_bar: Any) -> Any:
            y_bar = as_arrays(whole_bar(y_bar))
            bars = asked_bars(kept, y_bar, functools.partial(bars_of, kept.inputs.specs()))
            return vary_over(bars, varying_axes((kept.leaves, y_bar)))

        def bars_of(inputs: tuple[Any, ...], residuals: Any, y_bar: Any) -> tuple[Any, ...]:
            fn = functools.partial(self.parts["backward"], as_arrays(residuals), y_bar)
            return check_bars(self.name, call_by_name(fn, options), self._named(inputs), self.integers)

        primal.__name__ = primal.__qualname__ = self.name
        function = jax.custom_vjp(primal)
        function.defvjp(forward, backward, symbolic_zeros=True)
        return function

    def _named(self, inputs: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(self.inputs, inputs, strict=True))


def call_by_name(fn: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """Calls fn with the values its parameters name, whatever kind these are of."""
    parameters = inspect.signature(fn).parameters.values()
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = (
        [n for n in values if n not in positional]
        if _takes_any(fn)
        else [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    )
    return fn(*(values[n] for n in positional), **{n: values[n] for n in named})


def _takes_any(fn: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(fn).parameters.values())


def _public_name(fn: Callable[..., Any]) -> str:
    """nn.sigmoid for overbar.nn.activations.sigmoid; module.function for anybody else's."""
    if not hasattr(fn, "__qualname__"):
        raise RuleError(f"{fn!r} has no name of its own; declare the rule with name=.")
    module = (fn.__module__ or "__main__").split(".")  # code given to exec has no module
    if module[0] == "overbar":
        module = module[1:2]
    elif module == ["__main__"]:
        module = []
    outer = [part for part in fn.__qualname__.split(".")[:-1] if part != "<locals>"]
    return ".".join([*module, *outer, fn.__name__])


def _where(fn: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(fn)


def rule(
    *,
    bars: Mapping[str, str],
    residuals: Mapping[str, str],
    static: Collection[str] = (),
    arrays: Collection[str] = (),
    integers: Collection[str] = (),
    kinks: Mapping[float, float] | None = None,
    name: str | None = None,
    replace: bool = False,
) -> Callable[[Callable[P, R]], Rule[P, R]]:
    """Makes a rule of the primal it decorates; see the module's docstring for a whole declaration.

    Args:
      bars: input name -> the equation of its bar, in bar notation. An input with a bar is float:
        one array, or a pytree of which at least one leaf is. Integers and PRNG keys have no bar.
      residuals: residual name -> what it is and why it is kept.
      static: names of the options, which are hashable Python values.
      arrays: names of the inputs that must be one array; the others may be pytrees.
      integers: names of the inputs with a bar that may also come as integers or booleans, such as
        labels: then they have none, and what backward returns for them is dropped.
      kinks: for a function of one number, input value -> the derivative documented there.
      name: the name in the registry; by default the module and the function's name.
      replace: take the place of a rule registered under the same name: for a notebook cell that is
        run again, or a function that declares a rule each time it is called.

    Returns:
      A decorator that gives the `Rule`, entered in the `registry`.

    Raises:
      RuleError: a bar or an option for a parameter that is not there; a name registered twice.

    >>> @rule(bars={"x": "x̄ = 2 ȳ"}, residuals={})
    ... def double(x):
    ...     return 2 * x
    >>> double.missing
    ('forward', 'backward', 'reference', 'samples')
    """

    def decorate(primal: Callable[P, R]) -> Rule[P, R]:
        made = Rule(
            primal,
            bars=bars,
            residuals=residuals,
            static=static,
            arrays=arrays,
            integers=integers,
            kinks=kinks,
            name=name,
        )
        registry.add(made, replace=replace)
        return made

    return decorate
