"""Every registered rule × every sample passes the checker; a new rule is tested by being declared."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import overbar
from overbar import RuleError, registry
from overbar.rule import call_by_name

RULES = list(registry.values())


def samples(rule, skip=("bench",)):
    made = list(rule.parts["samples"](jax.random.key(2024)))
    return [s for s in made if not set(skip) & set(s.tags)]


def widened(tree):
    def wide(x):
        x = np.asarray(x)
        return x.astype(np.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(wide, tree)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_passes_the_check(rule):
    """In full on the first sample; what is about the other samples is the next test's."""
    sample = samples(rule)[0]
    report = overbar.check(rule, *sample.args, **sample.options)
    assert report.verdict == "correct", report


def reference_of(rule):
    """The reference under the rule's own signature."""

    def reference(*args, **options):
        inputs, static = rule.bind(*args, **options)
        return call_by_name(rule.parts["reference"], inputs | static)

    return reference


def pulled(f, sample, args):
    """The value, and the bars of all float arguments for bars of the value drawn at random."""
    leaves, tree = jax.tree.flatten(args)
    where = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.inexact)]

    def of_floats(*floats):
        filled = list(leaves)
        for i, x in zip(where, floats, strict=True):
            filled[i] = x
        y = f(*jax.tree.unflatten(tree, filled), **sample.options)
        return [leaf for leaf in jax.tree.leaves(y) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    y, pullback = jax.vjp(of_floats, *(leaves[i] for i in where))
    keys = jax.random.split(jax.random.key(7), len(y))
    return y, pullback([jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, y, strict=True)])


def cases():
    """All the samples; the first two of a rule on every version of JAX that is tested."""
    for rule in RULES:
        for number, sample in enumerate(samples(rule)):
            marks = [pytest.mark.once] if number >= 2 else []
            yield pytest.param(rule, sample, id=f"{rule.name}-{sample.name}", marks=marks)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("rule", "sample"), list(cases()))
def test_is_its_reference(rule, sample):
    """Value and bars beside the reference, which shares no code with the rule; in float64."""
    args = widened(sample.args)
    (got, got_bars), (want, want_bars) = (pulled(f, sample, args) for f in (rule, reference_of(rule)))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    if "kink" in sample.tags:  # there a reference may take another value, and the next test looks
        return
    for a, b in zip(got_bars, want_bars, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12 + 1e-9 * np.max(np.abs(b), initial=0.0))


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

    def test_samples_cover_the_shapes(self, rule):
        """Empty arrays, axes of size 1 and, unless the rule refuses them, 0-d arrays."""
        every = samples(rule, skip=())
        sizes = [leaf.shape for s in every for leaf in jax.tree.leaves(s.args)]
        assert any(0 in shape for shape in sizes)
        assert any(1 in shape for shape in sizes)
        if () not in sizes:
            args = jax.tree.map(lambda x: x.ravel()[0], every[0].args)
            with pytest.raises(RuleError):
                rule(*args)
        assert any("bench" in s.tags for s in every)

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
