"""What linear takes and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import overbar
from overbar import RuleError, nn


def ones(*shape, dtype=jnp.float32):
    return jnp.ones(shape, dtype)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((ones(2, 3), ones(4, 5)), r"w \(in, out\).*x float32\[2,3\], w float32\[4,5\], b None"),
        ((ones(), ones(4, 5)), r"x \(\.\.\., in\).*x float32\[\]"),
        ((ones(3), ones(3)), r"w \(in, out\).*w float32\[3\]"),
        ((ones(2, 3), ones(3, 5), ones(3)), r"b \(5,\).*b float32\[3\]"),
        ((ones(2, 3), ones(3, 5), ones(1, 5)), r"b \(5,\).*b float32\[1,5\]"),
        ((ones(2, 3), ones(3, 5, dtype=jnp.bfloat16)), r"one dtype.*float32\[2,3\], w bfloat16\[3,5\]"),
        ((ones(2, 3), ones(3, 5), ones(5, dtype=jnp.float16)), r"one dtype.*b float16\[5\]"),
        ((ones(2, 3, dtype=jnp.int32), ones(3, 5)), r"input x must be float.*int32\[2,3\]"),
        ((ones(2, 3), None), r"w.*None"),
    ],
)
def test_refuses(args, message):
    with pytest.raises(RuleError, match=f"rule nn.linear: .*{message}"):
        nn.linear(*args)


def test_half_precision_bias_is_summed_without_losing_the_batch():
    """4096 ones in bfloat16: a sum in bfloat16 itself would stop at 256."""
    x, w, b = ones(4096, 1, dtype=jnp.bfloat16), ones(1, 1, dtype=jnp.bfloat16), ones(1, dtype=jnp.bfloat16)
    y, pullback = jax.vjp(nn.linear, x, w, b)
    _, w_bar, b_bar = pullback(jnp.ones_like(y))
    assert b_bar == w_bar.ravel() == 4096


def test_none_is_no_bias():
    x, w = ones(2, 3), ones(3, 4)
    np.testing.assert_array_equal(nn.linear(x, w), nn.linear(x, w, None))
    np.testing.assert_array_equal(nn.linear(x, w, b=jnp.zeros(4)), nn.linear(x, w))
    assert jax.grad(lambda b: nn.linear(x, w, b).sum(), allow_int=True)(None) is None


PAIR = (ones(2, 3), ones(2, 4), ones(5, 3, 4))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            (ones(2, 3), ones(2, 4), ones(3, 4, 5)),
            r"w \(out, in1, in2\).*x2 float32\[2,4\], w float32\[3,4,5\]",
        ),
        ((ones(2, 3), ones(4), ones(5, 3, 4)), r"same leading axes.*x1 float32\[2,3\], x2 float32\[4\]"),
        ((ones(), ones(), ones(5, 3, 4)), r"x1 \(\.\.\., in1\).*x1 float32\[\]"),
        ((*PAIR, ones(3)), r"b \(5,\).*b float32\[3\]"),
        ((*PAIR[:2], ones(5, 3, 4, dtype=jnp.bfloat16)), r"one dtype.*w bfloat16\[5,3,4\]"),
        ((*PAIR, ones(5, dtype=jnp.float16)), r"one dtype.*b float16\[5\]"),
        ([a.astype(jnp.complex64) for a in PAIR], r"must be real.*x1 complex64"),
        ((ones(2, 3, dtype=jnp.int32), *PAIR[1:]), r"input x1 must be float.*int32\[2,3\]"),
    ],
)
def test_bilinear_refuses(args, message):
    with pytest.raises(RuleError, match=f"rule nn.bilinear: .*{message}"):
        nn.bilinear(*args)


def test_bilinear_in_half_precision_is_rounded_once():
    """512 pairs, each 1: a sum in bfloat16 itself would stop at 256. The bars as well."""
    x1, x2, w = (ones(*s, dtype=jnp.bfloat16) for s in [(512, 16), (512, 32), (1, 16, 32)])
    y, pullback = jax.vjp(nn.bilinear, x1, x2, w)
    assert jnp.all(y == 512)
    x1_bar, x2_bar, w_bar = pullback(jnp.ones_like(y))
    assert jnp.all(x1_bar == 32)
    assert jnp.all(x2_bar == 16)
    assert jnp.all(w_bar == 512)


@pytest.mark.once
@pytest.mark.parametrize("leading", [(64,), (4, 16)], ids=["rows", "two leading axes"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_the_weights_bar_of_a_narrow_layer(leading, dtype):
    """It is made transposed there: the same numbers, also where they are infinite or differentiated again."""
    kx, kw, kg = jax.random.split(jax.random.key(0), 3)
    x = jnp.abs(jax.random.normal(kx, (*leading, 512), dtype))
    w = jax.random.normal(kw, (512, 10), dtype)
    y_bar = jax.random.normal(kg, (*leading, 10), dtype).at[..., 3].set(jnp.inf)

    def w_bar(f):
        return jax.vjp(f, x, w)[1](y_bar)[1]

    def bend(f):
        def bar_of(w):
            return jax.grad(lambda w: jnp.sum(jnp.tanh(0.02 * f(x, w))).astype(jnp.float32))(w)

        return jax.grad(lambda w: jnp.sum(bar_of(w).astype(jnp.float32) ** 2))(w)

    assert "gt" in str(jax.make_jaxpr(lambda: w_bar(nn.linear))())  # what keeps XLA from undoing it
    for of in (w_bar, bend):
        ours, twins = (of(f) for f in (nn.linear, overbar.twin(nn.linear)))
        assert ours.dtype == twins.dtype == dtype
        ours, twins = (np.asarray(v, np.float32) for v in (ours, twins))
        size = np.abs(twins[np.isfinite(twins)]).max()
        np.testing.assert_allclose(ours, twins, rtol=0, atol=4 * float(jnp.finfo(dtype).eps) * size)
