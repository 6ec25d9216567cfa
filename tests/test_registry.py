"""Every registered rule passes the checker and is its reference; a new rule is tested by being declared."""

import dataclasses
import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import overbar
from overbar import RuleError, registry
from overbar.rule import call_by_name

RULES = list(registry.values())


@functools.cache
def samples(rule):
    """All but those of realistic size, which come last; what holds a kink after what does not."""
    with jax.enable_x64(False):  # whichever test is the first to ask
        every = rule.parts["samples"](jax.random.key(2024))
        small = itertools.takewhile(lambda s: "bench" not in s.tags, every)
        return sorted(small, key=lambda s: "kink" in s.tags)


def widened(tree):
    def wide(x):
        x = np.asarray(x)
        return x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(wide, tree)


@pytest.mark.once
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_passes_the_check(rule):
    """In the form for test suites: in full it takes 10 s. The other samples are the next test's."""
    for sample in samples(rule):
        report = overbar.check(rule, *sample.args, effort="quick", **sample.options)
        if report.verdict != "inconclusive":  # as where every bar is zero
            break
    assert report.verdict == "correct", report


def reference_of(rule):
    """The reference under the rule's own signature."""

    def reference(*args, **options):
        inputs, static = rule.bind(*args, **options)
        return call_by_name(rule.parts["reference"], inputs | static)

    return reference


def in_float64(sample):
    arrays = {n: widened(v) for n, v in sample.options.items() if isinstance(v, jax.Array)}
    return dataclasses.replace(sample, args=widened(sample.args), options={**sample.options, **arrays})


def of_floats(f, sample):
    """f as a function of its float arguments alone, to its float results; and these arguments."""
    leaves, tree = jax.tree.flatten(sample.args)
    where = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.inexact)]

    def function(floats):
        filled = list(leaves)
        for i, x in zip(where, floats, strict=True):
            filled[i] = x
        y = f(*jax.tree.unflatten(tree, filled), **sample.options)
        return [leaf for leaf in jax.tree.leaves(y) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    return function, [leaves[i] for i in where]


def drawn(like, seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(x.shape).astype(x.dtype) for x in like]


def both_passes(f, sample):
    """A program for the value, and for the bars of all float arguments for bars of the value drawn at random;
    and its arguments."""
    function, floats = of_floats(f, sample)
    y_bars = drawn(jax.eval_shape(function, floats), seed=7)

    def run(floats):
        y, pullback = jax.vjp(function, floats)
        return y, pullback(y_bars)[0]

    return run, floats


def compare(rule, some):
    """Values and bars beside the reference, which shares no code with the rule; compiled as one program."""
    some = [in_float64(sample) for sample in some]
    pairs = [[both_passes(f, sample) for f in (rule, reference_of(rule))] for sample in some]

    @jax.jit
    def run(arguments):
        return [[run(floats) for run, _ in pair] for pair, floats in zip(pairs, arguments, strict=True)]

    found = run([pair[0][1] for pair in pairs])
    for sample, ((got, got_bars), (want, want_bars)) in zip(some, found, strict=True):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=sample.name)
        if "kink" in sample.tags:  # there a reference may take another value, and another test looks
            continue
        for a, b in zip(got_bars, want_bars, strict=True):
            atol = 1e-12 + 1e-9 * np.max(np.abs(b), initial=0.0)
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=atol, err_msg=sample.name)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
class TestIsItsReference:
    """In float64; on the first sample with every version of JAX that is tested."""

    def test_on_the_first_sample(self, rule):
        compare(rule, samples(rule)[:1])

    @pytest.mark.once
    def test_on_the_others(self, rule):
        compare(rule, samples(rule)[1:])


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_second_derivatives_are_its_references(rule):
    """How the bars change along one direction of the inputs, forward over reverse; in float64."""
    sample = in_float64(samples(rule)[0])

    _, floats = of_floats(rule, sample)
    dots = drawn(floats, seed=3)

    def along(f):
        function, _ = of_floats(f, sample)
        y_bars = drawn(jax.eval_shape(function, floats), seed=7)

        def bars(floats):
            return jax.vjp(function, floats)[1](y_bars)[0]

        return lambda xs, dots: jax.jvp(bars, (xs,), (dots,))[1]

    of_both = [along(f) for f in (rule, reference_of(rule))]
    got, want = jax.jit(lambda *given: [run(*given) for run in of_both])(floats, dots)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10 + 1e-7 * np.max(np.abs(b), initial=0.0))


@pytest.mark.parametrize(
    ("rule", "x", "slope"), [(rule, x, slope) for rule in RULES for x, slope in rule.kinks.items()]
)
def test_bar_at_a_kink_is_the_documented_one(rule, x, slope):
    for at in (x,) if x else (0.0, -0.0):
        np.testing.assert_allclose(jax.grad(rule)(at), slope, rtol=1e-7)
        np.testing.assert_allclose(jax.vjp(rule, at)[1](jnp.float32(3.0))[0], 3 * slope, rtol=2e-7)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
class TestDeclaration:
    def test_is_complete(self, rule):
        assert rule.missing == ()
        assert set(rule.bars) <= set(rule.inputs)
        assert all(rule.bars.values())
        assert all(rule.residuals.values())

    @pytest.mark.once
    def test_samples_cover_the_shapes(self, rule):
        """Empty arrays, axes of size 1 and, unless the rule refuses them, 0-d arrays; then realistic ones."""
        small, every = samples(rule), list(rule.parts["samples"](jax.random.key(2024)))
        assert all("bench" in s.tags for s in every[len(small) :])
        assert len(every) > len(small)
        sizes = [leaf.shape for s in every for leaf in jax.tree.leaves(s.args) if hasattr(leaf, "shape")]
        assert any(0 in shape for shape in sizes)
        assert any(1 in shape for shape in sizes)
        if () not in sizes:
            args = jax.tree.map(lambda x: jnp.ravel(x)[0], small[0].args)
            with pytest.raises(RuleError):
                rule(*args, **small[0].options)

    def test_docstring_is_whole(self, rule):
        for part in ("Backward:", "Args:", "Returns:", "Raises:", "Source:", ">>> "):
            assert part in inspect.getdoc(rule)

    def test_reference_calls_no_rule(self, rule):
        for sample in samples(rule)[:2]:
            jaxpr = jax.make_jaxpr(functools.partial(reference_of(rule), **sample.options))(*sample.args)
            assert "custom_vjp" not in str(jaxpr)

    def test_jaxpr_shows_the_name(self, rule):
        sample = samples(rule)[0]
        jaxpr = jax.make_jaxpr(functools.partial(rule, **sample.options))(*sample.args)
        assert f"name={rule.name}" in str(jaxpr)
