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


IN_FULL = 3


def widened(tree):
    def wide(x):
        x = np.asarray(x)
        return x.astype(np.float64) if np.issubdtype(x.dtype, np.floating) else x

    return jax.tree.map(wide, tree)


CASES = [(rule, sample) for rule in RULES for sample in samples(rule)]


@pytest.mark.parametrize(("rule", "sample"), CASES, ids=[f"{r.name}-{s.name}" for r, s in CASES])
def test_passes_the_check(rule, sample):
    """In full on a few samples a rule, on the others what is about the sample itself."""
    in_full = sample.name in [s.name for s in samples(rule)[:IN_FULL]]
    report = overbar.check(rule, *sample.args, effort="normal" if in_full else "quick", **sample.options)
    nothing_to_compare = not in_full and "every bar is zero" in report.reason
    assert report.verdict == "correct" or nothing_to_compare, report


def reference_of(rule):
    """The reference under the rule's own signature."""

    def reference(*args, **options):
        inputs, static = rule.bind(*args, **options)
        return call_by_name(rule.parts["reference"], inputs | static)

    return reference


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("rule", "sample"), CASES, ids=[f"{r.name}-{s.name}" for r, s in CASES])
def test_is_its_reference(rule, sample):
    """Value and bars beside the reference, which shares no code with the rule; in float64."""
    args = [widened(x) for x in sample.args]
    got, want = (f(*args, **sample.options) for f in (rule, reference_of(rule)))
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
    report = overbar.check(rule, *args, like=reference_of(rule), effort="quick", **sample.options)
    bars_are_zero = report.verdict == "inconclusive" and "every bar is zero" in report.reason
    assert report.verdict == "correct" or bars_are_zero, report


@pytest.mark.parametrize(
    ("rule", "x", "slope"), [(rule, x, slope) for rule in RULES for x, slope in rule.kinks.items()]
)
def test_bar_at_a_kink_is_the_documented_one(rule, x, slope):
    for sign in (1.0, -1.0):  # also at −0
        np.testing.assert_array_equal(jax.grad(rule)(sign * x), slope)
        np.testing.assert_array_equal(jax.vjp(rule, sign * x)[1](jnp.float32(3.0))[0], 3 * slope)


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
