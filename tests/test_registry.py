"""Every registered rule × every sample × every property; a new rule is tested by being declared."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import properties
from overbar import RuleError, registry

RULES = list(registry.values())


def samples(rule, skip=("bench",)):
    made = list(rule.parts["samples"](jax.random.key(2024)))
    return [s for s in made if not set(skip) & set(s.tags)]


CASES = [(rule, sample) for rule in RULES for sample in samples(rule)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("check", properties.PROPERTIES, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("rule", "sample"), CASES, ids=[f"{r.name}-{s.name}" for r, s in CASES])
def test_property(rule, sample, check):
    check(properties.Case(rule, sample, jax.random.key(len(sample.name))))


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
            case = properties.Case(rule, sample, jax.random.key(0), np.float32)
            assert "custom_vjp" not in str(jax.make_jaxpr(case.reference)(*case.inputs))

    def test_jaxpr_shows_the_name(self, rule):
        case = properties.Case(rule, samples(rule)[0], jax.random.key(0), np.float32)
        assert f"name={rule.name}" in str(jax.make_jaxpr(case.f)(*case.inputs))
