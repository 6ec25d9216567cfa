"""Hand-written rules that others have published, each with arguments to run it on.

A rule is told by its package's name, and imported only when it is run: what is not installed is left
out. Where a rule differs from its primal's derivative on purpose, `like=` says which derivative it
is of, or `intentional=True` that none can be named.

`known` is what was found by hand about a verdict that is not "correct": whose fault it is and why.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import CodeType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

# jaxopt's isotonic regression hands JAX's arrays to numba, which does not take those of today.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
# netket switches float64 on for the whole process.
os.environ.setdefault("NETKET_ENABLE_X64", "0")

Whose = Literal["theirs", "ours", "declared"]


@dataclass(frozen=True)
class Sample:
    """What is checked: overbar.check(f, *args, **options).

    Attributes:
      rule: the function whose rule it is, to tell where it stands; f where it is None.
      inner: the name of the function within `rule` that has the rule, where that is a closure.
    """

    f: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    rule: Any = None
    inner: str = ""

    def place(self) -> tuple[str, int]:
        """The rule's source file and line."""
        code = _written(self.f if self.rule is None else self.rule)
        if self.inner:
            code = next(c for c in _nested(code) if c.co_name == self.inner)
        return code.co_filename, code.co_firstlineno


def _written(function: Any) -> CodeType:
    """The code that a person wrote: inside jax.custom_gradient, equinox.filter_custom_jvp and the like."""
    function = inspect.unwrap(function)
    if not hasattr(function, "__code__"):
        return _written(function.fn)
    code: CodeType = function.__code__
    held = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    for name in ("fun", "fn"):
        if name in held and Path(code.co_filename).name in ("custom_derivatives.py", "_ad.py"):
            return _written(held[name].cell_contents)
    return code


def _nested(code: CodeType) -> list[CodeType]:
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return inner + [deeper for c in inner for deeper in _nested(c)]


@dataclass(frozen=True)
class Known:
    """What was found by hand about a verdict other than "correct"."""

    verdict: Literal["wrong", "inconclusive"]
    whose: Whose
    why: str


@dataclass(frozen=True)
class Subject:
    """A published rule: its package (the name it is installed by), its name, and how its sample is made."""

    package: str
    name: str
    sample: Callable[[], Sample]
    known: Known | None = None


SUBJECTS: list[Subject] = []


def rule(
    package: str, name: str, known: Known | None = None
) -> Callable[[Callable[[], Sample]], Callable[[], Sample]]:
    """Registers a sample."""

    def register(sample: Callable[[], Sample]) -> Callable[[], Sample]:
        SUBJECTS.append(Subject(package, name, sample, known))
        return sample

    return register


def normal(seed: int, *shape: int) -> Any:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def between(seed: int, low: float, high: float, *shape: int) -> Any:
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32))


def kept(f: Callable[..., Any], *ways: Callable[[Any], Any] | None) -> Callable[..., Any]:
    """f of arguments that are first taken into its domain, so that whatever is put in stays in there."""
    return lambda *args: f(*(x if way is None else way(x) for way, x in zip(ways, args, strict=True)))


def positive_definite(seed: int, n: int) -> Any:
    a = normal(seed, n, n)
    return a @ a.T + n * jnp.eye(n)


# ---------------------------------------------------------------------- optax


@rule("optax", "scale_gradient")
def _optax_scale_gradient() -> Sample:
    f = import_module("optax._src.utils")._scale_gradient
    return Sample(lambda x: f(x, 0.3), (normal(0, 4, 3),), {"like": lambda x: x * 0.3}, rule=f)


@rule("optax", "projection on the simplex")
def _optax_projection() -> Sample:
    return Sample(import_module("optax.projections._projections")._projection_unit_simplex, (normal(1, 6),))


@rule("optax", "weighted_logsoftmax")
def _optax_weighted_logsoftmax() -> Sample:
    f = import_module("optax.losses._classification").weighted_logsoftmax
    return Sample(f, (normal(2, 4, 5), between(3, 0.1, 1.0, 4, 5)))


# ---------------------------------------------------------------------- equinox


@rule("equinox", "nextafter")
def _equinox_nextafter() -> Sample:
    return Sample(import_module("equinox.internal._nextafter").nextafter, (normal(0, 5),))


@rule("equinox", "error_if")
def _equinox_error_if() -> Sample:
    eqx = import_module("equinox")
    f = lambda x: eqx.error_if(x * x, jnp.any(x > 1e30), "too large")  # noqa: E731
    return Sample(f, (normal(1, 5),), rule=import_module("equinox._errors")._error)


@rule("equinox", "debug.backward_nan")
def _equinox_backward_nan() -> Sample:
    eqx = import_module("equinox")
    place = import_module("equinox.debug._backward_nan")._backward_nan
    f = partial(eqx.debug.backward_nan, terminate=False)
    return Sample(lambda x: f(x * x), (normal(2, 3),), rule=place)


@rule("equinox", "while_loop, checkpointed")
def _equinox_while_loop() -> Sample:
    eqxi = import_module("equinox.internal")

    def f(x: Any, w: Any) -> Any:
        def body(carry: Any) -> Any:
            step, y = carry
            return step + 1, jnp.tanh(w @ y)

        return eqxi.while_loop(lambda c: c[0] < 5, body, (0, x), max_steps=8, kind="checkpointed")[1]

    place = import_module("equinox.internal._loop.checkpointed")._checkpointed_while_loop
    return Sample(f, (normal(3, 3), normal(4, 3, 3)), rule=place)


# ---------------------------------------------------------------------- lineax


@rule("lineax", "two_norm")
def _lineax_two_norm() -> Sample:
    return Sample(import_module("lineax._norm")._two_norm, ({"a": normal(0, 3), "b": normal(1, 2, 2)},))


@rule(
    "lineax",
    "max_norm",
    Known(
        "wrong",
        "declared",
        "Only its helper by itself, _zero_grad_at_zero, whose bar is 0 at 0 as its name says; in max_norm "
        "that is the kink, where 0 is right.",
    ),
)
def _lineax_max_norm() -> Sample:
    lx = import_module("lineax")
    place = import_module("lineax._norm")._zero_grad_at_zero
    return Sample(lx.internal.max_norm, (normal(2, 5),), rule=place)


# ---------------------------------------------------------------------- flax: float8, straight-through


def _fp8(name: str) -> Any:
    return getattr(import_module("flax.linen.fp8_ops"), name)


@rule(
    "flax",
    "fp8 in_qdq",
    Known(
        "wrong",
        "declared",
        "The bars of the scale and of the history are their new values, whatever the incoming bar: "
        "the training loop reads them off as gradients.",
    ),
)
def _flax_in_qdq() -> Sample:
    f = _fp8("in_qdq")
    args = (normal(0, 4, 4), jnp.ones(1), jnp.zeros(16))
    return Sample(
        lambda x, s, h: f(jnp.float32, jnp.float8_e4m3fn, x, s, h), args, {"intentional": True}, rule=f
    )


@rule(
    "flax",
    "fp8 out_qdq",
    Known(
        "wrong",
        "declared",
        "The incoming bar itself is rounded to float8 with a scale, and the bars of scale and history "
        "are their new values.",
    ),
)
def _flax_out_qdq() -> Sample:
    f = _fp8("out_qdq")
    args = (normal(1, 4, 4), jnp.ones(1), jnp.zeros(16))
    return Sample(
        lambda x, s, h: f(jnp.float32, jnp.float8_e5m2, x, s, h), args, {"intentional": True}, rule=f
    )


@rule("flax", "fp8 out_dq")
def _flax_out_dq() -> Sample:
    f = _fp8("out_dq")
    args = (jnp.ones(1), jnp.ones(1), normal(2, 4, 4))
    return Sample(lambda a, b, y: f(jnp.float32, a, b, y), args, {"intentional": True}, rule=f)


@rule("flax", "dot_general_with_precision")
def _flax_dot_general() -> Sample:
    f = _fp8("dot_general_with_precision")
    return Sample(lambda x, w: f(x, w, (((1,), (0,)), ((), ()))), (normal(3, 4, 3), normal(4, 3, 2)), rule=f)


# ---------------------------------------------------------------------- optimistix, diffrax


@rule("optimistix", "root_find, implicit")
def _optimistix_root_find() -> Sample:
    optx = import_module("optimistix")

    def f(a: Any) -> Any:
        solver = optx.Newton(rtol=1e-6, atol=1e-6)
        return optx.root_find(lambda y, a: y**3 + a * y - 1, solver, jnp.ones_like(a), a).value

    place = import_module("optimistix._ad")._implicit_impl
    return Sample(f, (between(0, 0.5, 2.0, 3),), rule=place)


@rule("optimistix", "least_squares, implicit")
def _optimistix_least_squares() -> Sample:
    optx = import_module("optimistix")

    def f(a: Any) -> Any:
        solver = optx.LevenbergMarquardt(rtol=1e-6, atol=1e-6)
        residuals = lambda y, a: jnp.stack([y[0] - a[0], 2 * y[1] + y[0] * a[1], y[1] - a[0]])  # noqa: E731
        return optx.least_squares(residuals, solver, jnp.zeros(2, a.dtype), a).value

    place = import_module("optimistix._ad")._implicit_impl
    return Sample(f, (normal(1, 2),), rule=place)


def _ode(adjoint: str, **settings: Any) -> Callable[..., Any]:
    diffrax = import_module("diffrax")

    def f(y: Any, a: Any) -> Any:
        term = diffrax.ODETerm(lambda t, y, a: -a * jnp.sin(y))
        solution = diffrax.diffeqsolve(
            term,
            diffrax.Tsit5(),
            0.0,
            1.0,
            0.05,
            y,
            a,
            adjoint=getattr(diffrax, adjoint)(**settings),
        )
        return solution.ys[0]

    return f


@rule(
    "diffrax",
    "BacksolveAdjoint",
    Known(
        "wrong",
        "declared",
        "It solves the adjoint equation anew, so its bar is the derivative up to the solver's own error: "
        "here some 1e-12, which float64 sees and float32 does not.",
    ),
)
def _diffrax_backsolve() -> Sample:
    place = import_module("diffrax._adjoint")._loop_backsolve
    return Sample(_ode("BacksolveAdjoint"), (normal(0, 3), between(1, 0.5, 1.5, 3)), rule=place)


@rule("diffrax", "RecursiveCheckpointAdjoint")
def _diffrax_recursive() -> Sample:
    place = import_module("equinox.internal._loop.checkpointed")._checkpointed_while_loop
    return Sample(_ode("RecursiveCheckpointAdjoint"), (normal(2, 3), between(3, 0.5, 1.5, 3)), rule=place)


# ---------------------------------------------------------------------- jaxopt


@rule("jaxopt", "projection on the simplex")
def _jaxopt_simplex() -> Sample:
    return Sample(import_module("jaxopt._src.projection")._projection_unit_simplex, (normal(0, 6),))


@rule("jaxopt", "projection on the sparse simplex")
def _jaxopt_sparse_simplex() -> Sample:
    f = import_module("jaxopt._src.projection")._projection_unit_sparse_simplex
    return Sample(lambda x: f(x, 3, False), (normal(1, 6),), rule=f)


@rule(
    "jaxopt",
    "isotonic_l2_pav",
    Known(
        "wrong",
        "declared",
        "1e-8 is added to each block's size lest it be 0: the bar is 1e-8 too small, which float64 sees and "
        "float32 does not.",
    ),
)
def _jaxopt_isotonic() -> Sample:
    module = import_module("jaxopt._src.isotonic")
    return Sample(module.isotonic_l2_pav, (normal(2, 6),), rule=module._isotonic_l2_pav)


@rule("jaxopt", "perturbed argmax")
def _jaxopt_perturbed() -> Sample:
    module = import_module("jaxopt._src.perturbations")
    soft = module.make_perturbed_argmax(
        lambda x: jax.nn.one_hot(jnp.argmax(x), x.shape[0], dtype=x.dtype), num_samples=50
    )
    args = (normal(3, 4), jax.random.key(0))
    place = module.make_perturbed_argmax
    return Sample(soft, args, {"intentional": True}, rule=place, inner="forward_pert")


@rule("jaxopt", "custom_root")
def _jaxopt_custom_root() -> Sample:
    module = import_module("jaxopt._src.implicit_diff")
    data, target = normal(4, 8, 3), normal(5, 8)

    def optimality(w: Any, strength: Any) -> Any:
        return data.T @ (data @ w - target) + strength * w

    def solve(start: Any, strength: Any) -> Any:
        x, t = data.astype(strength.dtype), target.astype(strength.dtype)
        return jnp.linalg.solve(x.T @ x + strength * jnp.eye(3, dtype=x.dtype), x.T @ t)

    ridge = module.custom_root(optimality)(solve)
    args = (jnp.float32(0.5),)
    return Sample(partial(ridge, None), args, rule=module._custom_root, inner="solver_fun_flat")


@rule(
    "jaxopt",
    "custom_fixed_point",
    Known(
        "wrong",
        "declared",
        "The implicit equation is solved by conjugate gradients to a tolerance of 1e-5, of the whole bar: "
        "3e-8 off beside entries of 4e-2, which an entry of 8e-5 feels in its fourth digit.",
    ),
)
def _jaxopt_custom_fixed_point() -> Sample:
    module = import_module("jaxopt._src.implicit_diff")

    def solve(start: Any, a: Any) -> Any:
        return jax.lax.fori_loop(0, 80, lambda _, x: step(x, a), jnp.zeros_like(a))

    def step(x: Any, a: Any) -> Any:
        return 0.5 * jnp.cos(jnp.tanh(a) * x)  # a contraction whatever a is

    fixed = module.custom_fixed_point(step)(solve)
    place = module._custom_root
    return Sample(partial(fixed, None), (between(6, 0.5, 1.5, 3),), rule=place, inner="solver_fun_flat")


# ---------------------------------------------------------------------- distrax, rlax


@rule("distrax", "multiply_no_nan")
def _distrax_multiply() -> Sample:
    return Sample(import_module("distrax._src.utils.math").multiply_no_nan, (normal(0, 5), normal(1, 5)))


@rule(
    "distrax",
    "power_no_nan",
    Known(
        "wrong",
        "theirs",
        "The bar of y is primal * log(x), which is 0 * -inf = nan at x = 0, y > 0, where 0^y does not "
        "depend on y: the nan that the name says there is none of.",
    ),
)
def _distrax_power() -> Sample:
    f = import_module("distrax._src.utils.math").power_no_nan
    return Sample(f, (between(2, 0.5, 2.0, 5), between(3, 0.5, 2.0, 5)))


@rule("distrax", "von Mises cdf")
def _distrax_von_mises_cdf() -> Sample:
    f = import_module("distrax._src.distributions.von_mises")._von_mises_cdf
    positive = kept(lambda x, k: f(x, k, x.dtype), None, jnp.exp)
    return Sample(positive, (normal(4, 5), between(5, -0.7, 1.0, 5)), rule=f)


@rule("distrax", "von Mises sample")
def _distrax_von_mises_sample() -> Sample:
    f = import_module("distrax._src.distributions.von_mises")._von_mises_sample
    draw = lambda k, key: f(k.shape, k, key, k.dtype)  # noqa: E731
    args = (between(6, 0.5, 3.0, 5), jax.random.PRNGKey(0))
    return Sample(draw, args, {"intentional": True}, rule=f)


@rule("rlax", "clip_gradient")
def _rlax_clip_gradient() -> Sample:
    f = import_module("rlax").clip_gradient
    return Sample(lambda x: f(x, -1.0, 1.0), (normal(0, 5),), {"intentional": True}, rule=f)


# ---------------------------------------------------------------------- ott


@rule("ott-jax", "norm")
def _ott_norm() -> Sample:
    f = import_module("ott.math.utils").norm
    return Sample(lambda x: f(x, None, -1), (normal(0, 4, 3),), rule=f)


@rule("ott-jax", "logsumexp")
def _ott_logsumexp() -> Sample:
    f = import_module("ott.math.utils").logsumexp
    return Sample(lambda x: f(x, axis=1), (normal(1, 4, 3),), rule=f)


@rule(
    "ott-jax",
    "logsumexp of a row of −∞",
    Known(
        "wrong",
        "theirs",
        "The rule hands out a primal of its own: 0 where the function says -inf, so "
        "jax.value_and_grad changes the value.",
    ),
)
def _ott_logsumexp_infinite() -> Sample:
    f = import_module("ott.math.utils").logsumexp
    x = normal(1, 4, 3).at[1].set(-jnp.inf)
    return Sample(lambda x: f(x, axis=1), (x,), rule=f)


@rule("ott-jax", "softmin")
def _ott_softmin() -> Sample:
    f = import_module("ott.math.utils").softmin
    return Sample(lambda x: f(x, 0.3, -1), (normal(2, 4, 3),), rule=f)


@rule(
    "ott-jax",
    "softmin, its γ too",
    Known(
        "wrong",
        "theirs",
        "The rule returns None for gamma, a float argument like x: its bar is a silent zero. By "
        "differences it is -0.4676 on the sample.",
    ),
)
def _ott_softmin_gamma() -> Sample:
    f = import_module("ott.math.utils").softmin
    return Sample(lambda x, gamma: f(x, gamma, -1), (normal(2, 4, 3), jnp.float32(0.3)), rule=f)


@rule("ott-jax", "lambertw")
def _ott_lambertw() -> Sample:
    f = import_module("ott.math.utils").lambertw
    return Sample(kept(f, jnp.exp), (between(3, -2.0, 1.5, 6),), rule=f)


@rule("ott-jax", "sqrtm")
def _ott_sqrtm() -> Sample:
    f = import_module("ott.math.matrix_square_root").sqrtm
    return Sample(lambda x: f(x)[:2], (positive_definite(4, 3),), rule=f)


@rule("ott-jax", "sqrtm_only")
def _ott_sqrtm_only() -> Sample:
    return Sample(import_module("ott.math.matrix_square_root").sqrtm_only, (positive_definite(5, 3),))


@rule("ott-jax", "inv_sqrtm_only")
def _ott_inv_sqrtm_only() -> Sample:
    return Sample(import_module("ott.math.matrix_square_root").inv_sqrtm_only, (positive_definite(6, 3),))


@rule("ott-jax", "fixpoint_iter_backprop")
def _ott_fixpoint() -> Sample:
    loop = import_module("ott.math.fixed_point_loop")

    def f(a: Any, x: Any) -> Any:
        step = lambda i, a, x, error: jnp.cos(a * x)  # noqa: E731
        return loop.fixpoint_iter_backprop(lambda i, a, x: True, step, 4, 8, 2, a, x)

    args = (between(7, 0.5, 1.5, 3), normal(8, 3))
    return Sample(f, args, rule=loop.fixpoint_iter)


@rule("ott-jax", "RegTICost.h_legendre (Danskin)")
def _ott_legendre() -> Sample:
    costs = import_module("ott.geometry.costs")
    cost = costs.RegTICost(import_module("ott.geometry.regularizers").L1(), lam=0.3)
    return Sample(cost.h_legendre, (normal(9, 4),), rule=costs.RegTICost.h_legendre, inner="fn")


@rule("ott-jax", "sinkhorn, implicit")
def _ott_sinkhorn() -> Sample:
    pointcloud = import_module("ott.geometry.pointcloud")
    sinkhorn = import_module("ott.solvers.linear.sinkhorn")
    problem = import_module("ott.problems.linear.linear_problem")
    y = normal(11, 4, 2)

    def f(x: Any) -> Any:
        geometry = pointcloud.PointCloud(x, y.astype(x.dtype), epsilon=0.5)
        solver = sinkhorn.Sinkhorn(threshold=1e-6, max_iterations=200)
        out = solver(problem.LinearProblem(geometry))
        return out.f - out.f.mean()

    return Sample(f, (normal(10, 3, 2),), rule=sinkhorn.iterations)


# ---------------------------------------------------------------------- numpyro


@rule("numpyro", "log1mexp")
def _numpyro_log1mexp() -> Sample:
    return Sample(import_module("numpyro.distributions.util").log1mexp, (between(0, -3.0, -0.1, 6),))


def _power_law(method: str) -> Sample:
    cls = import_module("numpyro.distributions.truncated").DoublyTruncatedPowerLaw
    f = lambda x, alpha, low, high: getattr(cls(alpha, low, high), method)(x)  # noqa: E731
    x = between(1, 0.2, 0.8, 4) if method == "icdf" else between(1, 1.5, 3.5, 4)
    args = (x, jnp.float32(-1.7), jnp.float32(1.1), jnp.float32(4.0))
    return Sample(f, args, rule=getattr(cls, method), inner="f")


@rule(
    "numpyro",
    "DoublyTruncatedPowerLaw.log_prob",
    Known(
        "wrong",
        "theirs",
        "The tangents of low and high are those of the density, not of its logarithm, and high's has "
        "the wrong sign: at x = 2, alpha = -1.7, low = 1.1, high = 4 the rule says 0.4141 and 0.0461, "
        "differences 1.0697 and -0.1192.",
    ),
)
def _numpyro_log_prob() -> Sample:
    return _power_law("log_prob")


@rule(
    "numpyro",
    "DoublyTruncatedPowerLaw.cdf",
    Known(
        "wrong",
        "theirs",
        "The function clips to 0 and 1 outside of the support, the rule does not: at x = 5 > high = 4 "
        "it says 0.0815 where the function is constant.",
    ),
)
def _numpyro_cdf() -> Sample:
    return _power_law("cdf")


@rule(
    "numpyro",
    "DoublyTruncatedPowerLaw.icdf",
    Known(
        "wrong",
        "theirs",
        "At low = 0, which its constraint allows, the tangent of alpha holds 0 * log(0) = nan; by "
        "differences it is 0.7763 at alpha = 0.5, high = 4, q = 0.5.",
    ),
)
def _numpyro_icdf() -> Sample:
    return _power_law("icdf")


# ---------------------------------------------------------------------- e3nn, flowjax, kfac, netket


@rule("e3nn-jax", "einsum")
def _e3nn_einsum() -> Sample:
    f = import_module("e3nn_jax._src.utils.einsum").einsum
    return Sample(lambda x, y: f("ij,jk->ik", x, y), (normal(0, 3, 4), normal(1, 4, 2)), rule=f)


@rule("e3nn-jax", "spherical_harmonics")
def _e3nn_harmonics() -> Sample:
    module = import_module("e3nn_jax._src.spherical_harmonics")
    algorithm = ("legendre", "dense", "custom_jvp")

    def f(x: Any) -> Any:
        if x.shape[-1] != 3:
            raise ValueError("a point in space has three coordinates")
        return module._custom_jvp_spherical_harmonics((0, 1, 2), x, "component", algorithm)

    return Sample(f, (normal(2, 4, 3),), rule=module._custom_jvp_spherical_harmonics)


@rule("flowjax", "NumericalInverse")
def _flowjax_inverse() -> Sample:
    bijections = import_module("flowjax.bijections")
    root = import_module("flowjax.root_finding")
    bent = bijections.LeakyTanh(3.0, ())

    def f(y: Any, scale: Any) -> Any:
        inner = bijections.Chain([bent, bijections.Affine(0.3, scale)])
        inverter = partial(root.bisection_search, lower=-20.0, upper=20.0, atol=1e-6)
        search = lambda bijection, y, c: inverter(lambda x: bijection.transform(x, c) - y)[0]  # noqa: E731
        return bijections.NumericalInverse(inner, search).transform(y)

    place = bijections.NumericalInverse._wrap_inverter_with_implicit_jvp
    return Sample(f, (jnp.float32(0.4), jnp.float32(1.3)), rule=place, inner="wrapped_inverter")


@rule(
    "kfac-jax",
    "stable_sqrt",
    Known("wrong", "declared", "The gradient is held at 1000 below x = 2.5e-7, as its docstring says."),
)
def _kfac_sqrt() -> Sample:
    module = import_module("kfac_jax._src.utils.math")
    return Sample(module.stable_sqrt, (between(0, 0.1, 3.0, 5),), rule=module._sqrt_bound_derivative)


@rule(
    "netket",
    "expect",
    Known("wrong", "declared", "Second order only, which its source says is not supported."),
)
def _netket_expect() -> Sample:
    # An estimator of the derivative of an expectation, not of the sample mean that it returns.
    module = import_module("netket.jax._expect")
    log_pdf = lambda p, s: s @ p  # noqa: E731
    value = lambda p, s: jnp.tanh(s @ p)  # noqa: E731

    def f(p: Any, s: Any) -> Any:
        if p.ndim != 1 or s.ndim != 2:
            raise ValueError("expected one vector of parameters, and one row a sample")
        return module.expect(log_pdf, value, p, s)[0]

    def like(p: Any, s: Any) -> Any:
        local = value(p, s)
        centred = jax.lax.stop_gradient(local - local.mean())
        return jnp.mean(centred * log_pdf(p, s) + local)

    return Sample(f, (normal(1, 3), normal(2, 8, 3)), {"like": like}, rule=module._expect)


@rule("netket", "apply_packed")
def _netket_apply_packed() -> Sample:
    module = import_module("netket.jax._apply_packed")
    where = jnp.asarray([True, False, True, True, False])
    x = normal(4, 5, 3)

    def f(w: Any, fill: Any) -> Any:
        return module.apply_packed(
            lambda w, x: jnp.tanh(x.astype(w.dtype) @ w), w, x, where, fill, chunk_size=2
        )

    args = (normal(3, 3), jnp.float32(0.5))
    return Sample(f, args, rule=module._apply_packed_local)


# ---------------------------------------------------------------------- jax-md, jaxoplanet


@rule(
    "jax-md",
    "space.transform",
    Known(
        "wrong",
        "declared",
        "Second order only: the bars are meant to be no function's gradient (that of R is handed "
        "through untouched), so no second derivative fits them.",
    ),
)
def _jax_md_transform() -> Sample:
    space = import_module("jax_md.space")
    like = lambda box, r: r + space.raw_transform(box, jax.lax.stop_gradient(r))  # noqa: E731
    return Sample(
        space.transform, (2.0 * jnp.eye(3) + 0.1 * normal(0, 3, 3), normal(1, 4, 3)), {"like": like}
    )


@rule("jax-md", "transform_gradients")
def _jax_md_transform_gradients() -> Sample:
    module = import_module("jax_md._energy.electrostatics")
    like = import_module("jax_md.space").raw_transform
    args = (2.0 * jnp.eye(3) + 0.1 * normal(2, 3, 3), normal(3, 4, 3))
    return Sample(module.transform_gradients, args, {"like": like})


@rule(
    "jax-md",
    "quaternion rotation",
    Known(
        "wrong",
        "declared",
        "Second order only: the projection of the bar is meant for the sphere, and its own derivative "
        "is left to itself.",
    ),
)
def _jax_md_rotate() -> Sample:
    # The bar of the quaternion is laid into the plane tangent to the sphere.
    module = import_module("jax_md.rigid_body")

    def like(q: Any, v: Any) -> Any:
        here = jax.lax.stop_gradient(q)
        return module._quaternion_rotate_raw(q - here * (here @ (q - here)), v)

    q = normal(4, 4)
    return Sample(module._quaternion_rotate, (q / jnp.linalg.norm(q), normal(5, 3)), {"like": like})


@rule("jax-md", "segmented matmul")
def _jax_md_segment_mm() -> Sample:
    f = import_module("jax_md._nn.uma.kernels")._segment_mm_2d
    return Sample(f, (normal(6, 6, 3), normal(7, 2, 4, 3), jnp.asarray([2, 4])))


@rule(
    "jax-md",
    "safe_acos",
    Known("wrong", "declared", "The gradient is held within 1e-7 of x = -1 and 1, as its docstring says."),
)
def _jax_md_acos() -> Sample:
    f = import_module("jax_md._nn.uma.common.rotation").safe_acos
    return Sample(f, (between(8, -0.9, 0.9, 5),))


@rule(
    "jax-md",
    "safe_atan2",
    Known("wrong", "declared", "The gradient is held within 1e-7 of the origin, as its docstring says."),
)
def _jax_md_atan2() -> Sample:
    f = import_module("jax_md._nn.uma.common.rotation").safe_atan2
    return Sample(f, (normal(9, 5), normal(10, 5)))


@rule("jax-md", "ReaxFF safe_sqrt")
def _jax_md_sqrt() -> Sample:
    f = import_module("jax_md.mm_forcefields.reaxff.reaxff_helper").safe_sqrt
    return Sample(f, (between(11, 0.1, 3.0, 5),))


@rule("jaxoplanet", "kepler")
def _jaxoplanet_kepler() -> Sample:
    f = import_module("jaxoplanet.core.kepler")._kepler
    elliptic = kept(f, None, jax.nn.sigmoid)
    return Sample(elliptic, (between(0, 0.1, 6.0, 5), between(1, -2.0, 1.0, 5)), rule=f)


@rule("jaxoplanet", "limb darkening, P integral")
def _jaxoplanet_p_integral() -> Sample:
    f = import_module("jaxoplanet.core.limb_dark")._p_integral
    return Sample(lambda b, r: f(10, 3, True, b, r), (jnp.float32(0.4), jnp.float32(0.3)), rule=f)


@rule(
    "jaxoplanet",
    "zero_safe_sqrt",
    Known(
        "wrong",
        "theirs",
        "Safe at 0, and wrong beside it: below 10 eps (1.2e-6 in float32) it says sqrt(x) / 2 for 1 / "
        "(2 sqrt(x)), 5e-4 instead of 500 at x = 1e-6.",
    ),
)
def _jaxoplanet_sqrt() -> Sample:
    return Sample(import_module("jaxoplanet.utils").zero_safe_sqrt, (between(2, 0.1, 3.0, 5),))


# ---------------------------------------------------------------------- qpax


def _qp(module: str) -> Sample:
    # A box of which one side is met, and a plane; Q is meant to be symmetric, and its bar is.
    f = import_module(module).solve_qp_primal
    box = jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
    q = jnp.asarray([-9.0, 1.0, 0.5])
    args = (positive_definite(0, 3), q, jnp.ones((1, 3)), jnp.asarray([0.3]), box, jnp.ones(6))

    def symmetric(q_matrix: Any, *rest: Any) -> Any:
        return f((q_matrix + q_matrix.T) / 2, *rest)

    return Sample(symmetric, args, rule=f)


@rule(
    "qpax",
    "solve_qp_primal, explicit",
    Known(
        "wrong",
        "theirs",
        "The bar of G multiplies lambda in twice: diag(lam) @ outer(lam, dz). By differences G[0, 1] "
        "is 0.383, the rule says 1.941; qpax.implicit has it right.",
    ),
)
def _qpax_explicit() -> Sample:
    return _qp("qpax.explicit.diff_qp")


@rule(
    "qpax",
    "solve_qp_primal, implicit",
    Known(
        "wrong",
        "declared",
        "The derivative is that of the problem relaxed by target_kappa = 1e-3, as its docstring says: "
        "1e-3 away from that of the function.",
    ),
)
def _qpax_implicit() -> Sample:
    return _qp("qpax.implicit.diff_qp")


# ---------------------------------------------------------------------- TensorFlow Probability on JAX

TFP = "tensorflow_probability.substrates.jax"


def _special(name: str, *args: Any) -> Sample:
    module = import_module(f"{TFP}.math.special")
    return Sample(getattr(module, name), args, rule=getattr(module, f"_{name}_custom_gradient"))


def _bessel(name: str, *args: Any) -> Sample:
    module = import_module(f"{TFP}.math.bessel")
    return Sample(getattr(module, name), args, rule=getattr(module, f"_{name}_custom_gradient"))


@rule("tfp-nightly", "log_cosh")
def _tfp_log_cosh() -> Sample:
    module = import_module(f"{TFP}.math.generic")
    return Sample(module.log_cosh, (normal(0, 5),), rule=module._log_cosh_custom_gradient)


@rule("tfp-nightly", "betainc")
def _tfp_betainc() -> Sample:
    return _special("betainc", between(1, 0.5, 4, 4), between(2, 0.5, 4, 4), between(3, 0.1, 0.9, 4))


@rule("tfp-nightly", "betaincinv")
def _tfp_betaincinv() -> Sample:
    return _special("betaincinv", between(1, 0.5, 4, 4), between(2, 0.5, 4, 4), between(3, 0.1, 0.9, 4))


@rule(
    "tfp-nightly",
    "dawsn",
    Known(
        "wrong",
        "theirs",
        "1 - 2 x dawsn(x) cancels for large x: in float32 -2.0266e-6 for -2.0000e-6 at x = 500, 1.3 % off, "
        "and at 52 it is off by 6e-6, where the twin keeps all digits.",
    ),
)
def _tfp_dawsn() -> Sample:
    return _special("dawsn", normal(4, 5))


@rule("tfp-nightly", "erfcx")
def _tfp_erfcx() -> Sample:
    return _special("erfcx", normal(5, 5))


@rule("tfp-nightly", "igammainv")
def _tfp_igammainv() -> Sample:
    return _special("igammainv", between(6, 0.5, 4, 4), between(7, 0.1, 0.9, 4))


@rule("tfp-nightly", "igammacinv")
def _tfp_igammacinv() -> Sample:
    return _special("igammacinv", between(6, 0.5, 4, 4), between(7, 0.1, 0.9, 4))


@rule("tfp-nightly", "lambertw")
def _tfp_lambertw() -> Sample:
    module = import_module(f"{TFP}.math.special")
    f = kept(module.lambertw, jnp.exp)
    return Sample(f, (between(8, -2, 1.5, 5),), rule=module._lambert_custom_gradient)


@rule("tfp-nightly", "log_gamma_difference")
def _tfp_log_gamma_difference() -> Sample:
    return _special("log_gamma_difference", between(9, 0.5, 4, 4), between(10, 8.5, 20, 4))


@rule("tfp-nightly", "lbeta")
def _tfp_lbeta() -> Sample:
    return _special("lbeta", between(9, 0.5, 4, 4), between(10, 0.5, 20, 4))


@rule("tfp-nightly", "owens_t")
def _tfp_owens_t() -> Sample:
    return _special("owens_t", normal(11, 4), normal(12, 4))


@rule(
    "tfp-nightly",
    "bessel_iv_ratio",
    Known(
        "wrong",
        "declared",
        "The derivative by the order v is not implemented, as its source says; its bar is a silent zero.",
    ),
)
def _tfp_bessel_iv_ratio() -> Sample:
    return _bessel("bessel_iv_ratio", between(13, 1, 4, 4), between(14, 0.5, 5, 4))


@rule(
    "tfp-nightly",
    "bessel_ive",
    Known(
        "wrong",
        "declared",
        "The derivative by the order v is not implemented, as its source says; its bar is a silent zero.",
    ),
)
def _tfp_bessel_ive() -> Sample:
    return _bessel("bessel_ive", between(13, 1, 4, 4), between(14, 0.5, 5, 4))


@rule(
    "tfp-nightly",
    "log_bessel_kve",
    Known(
        "wrong",
        "declared",
        "The derivative by the order v is not implemented, as its source says; its bar is a silent zero.",
    ),
)
def _tfp_log_bessel_kve() -> Sample:
    return _bessel("log_bessel_kve", between(13, 1, 4, 4), between(14, 0.5, 5, 4))


@rule("tfp-nightly", "hpsd_logdet")
def _tfp_logdet() -> Sample:
    module = import_module(f"{TFP}.math.linalg")
    return Sample(module.hpsd_logdet, (positive_definite(15, 3),), rule=module._hpsd_logdet_custom_gradient)


@rule("tfp-nightly", "hpsd_solve")
def _tfp_solve() -> Sample:
    module = import_module(f"{TFP}.math.linalg")
    args = (positive_definite(16, 3), normal(17, 3, 2))
    return Sample(module.hpsd_solve, args, rule=module._hpsd_solve_custom_gradient)


@rule("tfp-nightly", "sqrt_with_finite_grads")
def _tfp_sqrt() -> Sample:
    f = import_module(f"{TFP}.math.psd_kernels.internal.util").sqrt_with_finite_grads
    return Sample(f, (between(18, 0.1, 3, 5),))


@rule("tfp-nightly", "von_mises_cdf")
def _tfp_von_mises() -> Sample:
    f = import_module(f"{TFP}.distributions.von_mises").von_mises_cdf
    return Sample(kept(f, None, jnp.exp), (normal(19, 5), between(20, -0.7, 1, 5)), rule=f)


@rule("tfp-nightly", "random_gamma")
def _tfp_random_gamma() -> Sample:
    module = import_module(f"{TFP}.distributions.gamma")
    f = lambda a, key: module.random_gamma((3,), a, seed=key)  # noqa: E731
    args = (jnp.float32(1.7), jax.random.PRNGKey(0))
    return Sample(f, args, {"intentional": True}, rule=module._random_gamma_gradient)
