"""Attention beside jax.nn's, at once and by blocks; its accuracy, its memory, and its masked rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import overbar
from namesake import mean_errors
from overbar import RuleError, nn
from overbar.check.oracle import Side
from overbar.check.units.memory import kept_by
from overbar.nn import _attention_blocks, attention

pytestmark = pytest.mark.once  # the registry's tests run on every version


def JAXS(*args, **options):
    """The namesake, which in bfloat16 promotes implicitly."""
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(*args, **options)


@pytest.fixture
def by_blocks(monkeypatch):
    """Blocks of four rows wherever there are more, and nothing by jax.nn."""
    monkeypatch.setattr(attention, "KEPT", 0)
    monkeypatch.setattr(attention, "EXACT", 0)
    monkeypatch.setattr(_attention_blocks, "ROWS", 4)


def normal(seed, *shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def some(seed, *shape):
    return jax.random.bernoulli(jax.random.key(seed), 0.5, shape)


def inputs(t=11, s=13, n=4, k=2, h=3, b=2, dtype=jnp.float32):
    return (
        normal(0, b, t, n, h, dtype=dtype),
        normal(1, b, s, k, h, dtype=dtype),
        normal(2, b, s, k, h, dtype=dtype),
    )


def y_bar(shape):
    """Numbers that every float dtype holds."""
    return jnp.asarray(np.random.default_rng(9).integers(-8, 9, shape) / 4, jnp.float32)


def value_and_bars(f, args, **options):
    """Compiled: the output, and the bars of all args for a random bar of the output."""

    def both(*args):
        y, pullback = jax.vjp(functools.partial(f, **options), *args)
        return (y, *pullback(y_bar(y.shape).astype(y.dtype)))

    return jax.jit(both)(*args)


def lengths(*values):
    return jnp.array(values, jnp.int32)


FEATURES = {
    "plain": ((), {}),
    "causal": ((), {"is_causal": True}),
    "full bias, full mask, scale": (
        (normal(3, 2, 4, 11, 13),),
        {"mask": some(4, 2, 4, 11, 13).at[0, 0, 3].set(False), "scale": 0.3},
    ),
    "bias of keys, causal, key lengths": (
        (normal(3, 1, 4, 1, 13),),
        {"is_causal": True, "key_value_seq_lengths": lengths(5, 0)},
    ),
    "bias of rows, mask of rows, window": (
        (normal(3, 2, 1, 11, 1),),
        {"mask": some(4, 1, 1, 11, 1), "local_window_size": 2},
    ),
    "causal window, lengths": (
        (),
        {
            "is_causal": True,
            "local_window_size": (3, 4),
            "query_seq_lengths": lengths(11, 6),
            "key_value_seq_lengths": lengths(2, 13),
        },
    ),
    "window that leaves rows nothing": ((), {"local_window_size": (-3, 4)}),
}


@pytest.mark.parametrize("features", FEATURES)
def test_agrees_with_its_namesake_by_blocks(by_blocks, features):
    bias, options = FEATURES[features]
    args = (*inputs(), *bias)
    got, want = (value_and_bars(f, args, **options) for f in (nn.dot_product_attention, JAXS))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("features", ["full bias, full mask, scale", "causal window, lengths"])
def test_agrees_with_its_namesake_at_once(features):
    bias, options = FEATURES[features]
    args = (*inputs(), *bias)
    got, want = (value_and_bars(f, args, **options) for f in (nn.dot_product_attention, JAXS))
    np.testing.assert_array_equal(got[0], want[0])
    for a, b in zip(got[1:], want[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


# ---------------------------------------------------------------------- the outputs


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_output_is_jax_nns_bit_for_bit(dtype, jit):
    for options in ({"is_causal": True}, {"scale": 0.3, "return_residual": True, "local_window_size": 2}):
        got, want = (
            (jax.jit if jit else lambda f: f)(functools.partial(f, **options))(*inputs(dtype=dtype))
            for f in (nn.dot_product_attention, JAXS)
        )
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert a.dtype == b.dtype == dtype
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("t", "k"), [(24, 1), (200, 4), (300, 2)])
def test_output_under_differentiation_is_jax_nns_bit_for_bit(t, k):
    """Where the probabilities are kept, and (300) where they no longer are."""
    args = inputs(t, t, 4, k, 16, b=4)
    got, want = (value_and_bars(f, args, is_causal=True)[0] for f in (nn.dot_product_attention, JAXS))
    np.testing.assert_array_equal(got, want)


def test_float16_which_jax_nn_refuses_under_jit_on_a_cpu():
    half = [x.astype(jnp.float16) for x in inputs()]
    got = value_and_bars(nn.dot_product_attention, half, is_causal=True)
    assert all(x.dtype == jnp.float16 for x in got)
    want = JAXS(*(x.astype(jnp.float32) for x in half), is_causal=True)
    np.testing.assert_array_equal(got[0], want.astype(jnp.float16))


def test_without_a_batch_and_without_keys():
    q, k, v = (x[0] for x in inputs())
    for args in ((q, k, v), (q, k[:0], v[:0])):
        got, want = (value_and_bars(f, args) for f in (nn.dot_product_attention, JAXS))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.once
def test_log_sum_exp_is_jax_nns_and_has_no_bar(by_blocks):
    options = {"return_residual": True, "is_causal": True, "key_value_seq_lengths": lengths(0, 4)}
    got, want = (
        jax.jit(jax.value_and_grad(lambda q, f=f: f(q, *inputs()[1:], **options)[1].sum()))(inputs()[0])
        for f in (nn.dot_product_attention, JAXS)
    )
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    np.testing.assert_array_equal(got[1], 0)


# ---------------------------------------------------------------------- masked rows


@pytest.mark.parametrize("blocks", [True, False], ids=["by blocks", "at once"])
def test_a_row_that_sees_nothing_attends_to_all_alike(blocks, request):
    if blocks:
        request.getfixturevalue("by_blocks")
    q, k, v = inputs()
    options = {"is_causal": True, "key_value_seq_lengths": lengths(0, 13)}
    y, q_bar, k_bar, v_bar = value_and_bars(nn.dot_product_attention, (q, k, v), **options)
    mean = jnp.repeat(v[0].mean(0), 2, axis=0)
    np.testing.assert_allclose(y[0], jnp.broadcast_to(mean, y[0].shape), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(q_bar[0], 0)
    np.testing.assert_array_equal(k_bar[0], 0)
    bar_of_all = y_bar(y.shape)[0].reshape(11, 2, 2, 3).sum((0, 2)) / 13
    np.testing.assert_allclose(v_bar[0], jnp.broadcast_to(bar_of_all, v[0].shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("low", [-jnp.inf, float(jnp.finfo(jnp.float32).min), -0.7 * 3.4028235e38])
def test_a_bias_that_masks_is_as_in_jax_nn(by_blocks, low):
    """Also with a causal mask, beside whose logits −3.4e38 is low: there padded rows see the masked keys."""
    bias = jnp.zeros((2, 1, 1, 13)).at[0, ..., :6].set(low)
    if low == -jnp.inf:
        bias = bias.at[0, ..., 0].set(0.0)  # a row of −∞ alone is nan in jax.nn too
    args = (*inputs(), bias)
    got, want = (value_and_bars(f, args, is_causal=True) for f in (nn.dot_product_attention, JAXS))
    for a, b in zip(got, want, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


# ---------------------------------------------------------------------- accuracy


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("dtype", "blocks"), [(jnp.float32, True), (jnp.float32, False), (jnp.bfloat16, True)], ids=str
)
def test_is_no_further_from_the_truth_than_jax_grad(dtype, blocks, request):
    if blocks:
        request.getfixturevalue("by_blocks")
    args = inputs(16, 64, 4, 2, 32, dtype=dtype)
    exact = [x.astype(jnp.float64) for x in args]
    truth = value_and_bars(overbar.twin(nn.dot_product_attention), exact)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        ours, jaxs = (value_and_bars(f, args) for f in (nn.dot_product_attention, JAXS))

    def errors(got):
        return [float(np.linalg.norm(np.float64(a) - b)) for a, b in zip(got, truth, strict=True)]

    # Of equal roundings in another order, either sum may be a little nearer.
    assert all(a <= 1.1 * b for a, b in zip(errors(ours), errors(jaxs), strict=True)), (
        errors(ours),
        errors(jaxs),
    )


@pytest.mark.parametrize("length", [16, 300])  # by probabilities that are kept, and computed again
def test_is_on_average_as_near_the_truth_as_jax_grad(length):
    def make(rng):
        return [x * rng.standard_normal((1, length, 2, 4)) for x in (4, 1, 1)]

    ours, theirs = mean_errors(nn.dot_product_attention, JAXS, make, jnp.float32, seeds=12).T
    assert (ours <= 1.04 * theirs).all(), ours / theirs


# ---------------------------------------------------------------------- second derivatives, transforms


@pytest.mark.once
@pytest.mark.usefixtures("x64")
def test_second_derivatives_by_blocks(by_blocks):
    q, k, v = (x.astype(jnp.float64) for x in inputs(6, 6, 1, 1, 2, b=1))
    bias = normal(3, 1, 1, 1, 6).astype(jnp.float64)

    def loss(f, q, bias):
        options = {"is_causal": True, "scale": bias[0, 0, 0, 0]}
        return (f(q, k, v, bias, **options) ** 2).sum()

    def grad_of_grad(f):
        return jax.grad(lambda q: (jax.grad(loss, 1)(f, q, bias) ** 2).sum())(q)

    rule, twin = nn.dot_product_attention, overbar.twin(nn.dot_product_attention)
    hessians = (jax.jit(jax.hessian(functools.partial(loss, f), (0, 1)))(q, bias) for f in (rule, twin))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-10), *hessians)
    np.testing.assert_allclose(*(jax.jit(grad_of_grad, static_argnums=0)(f) for f in (rule, twin)), rtol=1e-9)


@pytest.mark.once
def test_scale_has_a_bar_where_it_is_an_array(by_blocks):
    def of(f):
        return jax.jit(jax.grad(lambda c: (f(*inputs(), scale=c, is_causal=True) ** 2).sum()))(
            jnp.float32(0.4)
        )

    np.testing.assert_allclose(of(nn.dot_product_attention), of(JAXS), rtol=1e-5)


def test_vmap_scan_and_remat(by_blocks):
    q, k, v = inputs()

    def loss(f, q):
        def layer(q, _):
            return q + jax.vmap(functools.partial(f, is_causal=True))(q, k, v), None

        return (jax.lax.scan(jax.checkpoint(layer), q, length=2)[0] ** 2).sum()

    got, want = (jax.jit(jax.grad(functools.partial(loss, f)))(q) for f in (nn.dot_product_attention, JAXS))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
@pytest.mark.parametrize("spec", [("a",), (None, None, "a")], ids=["batch", "heads"])
def test_shard_map(by_blocks, spec):
    spec = jax.sharding.PartitionSpec(*spec)
    mesh = jax.make_mesh((2,), ("a",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    args = (*inputs(), normal(3, 1, 1, 1, 13))
    specs = (spec, spec, spec, jax.sharding.PartitionSpec())

    def loss(*args):
        f = functools.partial(nn.dot_product_attention, is_causal=True)
        return (jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=spec)(*args) ** 2).sum()

    got = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*args)
    want = jax.jit(jax.grad(lambda *args: (JAXS(*args, is_causal=True) ** 2).sum(), (0, 1, 2, 3)))(*args)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------- memory, and what is skipped


def test_keeps_its_inputs_and_never_many_probabilities():
    def side(f):
        return Side(lambda *args: [f(*args, is_causal=True)], False)

    for t, few in ((64, True), (1100, False)):
        args = [np.asarray(x) for x in inputs(t, t, 1, 1, 8, b=1)]
        kept, unused, twice = kept_by(side(nn.dot_product_attention), args)
        assert (unused, twice) == (0, 0)
        assert kept == sum(x.nbytes for x in args) + (4 * t * (t + 1) if few else 0)
        assert kept <= kept_by(side(JAXS), args)[0]


@pytest.mark.parametrize("options", [{"is_causal": True}, {"local_window_size": 128}], ids=str)
def test_temporary_memory_grows_linearly(options):
    def temporary(f, t):
        x = jax.ShapeDtypeStruct((1, t, 1, 16), jnp.float32)
        loss = jax.value_and_grad(lambda *args: (f(*args, **options) ** 2).sum(), (0, 1, 2))
        return jax.jit(loss).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(nn.dot_product_attention, 4096) < 3 * temporary(nn.dot_product_attention, 2048)
    assert temporary(nn.dot_product_attention, 4096) < 0.05 * temporary(JAXS, 4096)


@pytest.mark.parametrize(
    ("queries", "keys", "left", "right"),
    [
        (1024, 1024, 9999, 0),
        (1000, 1000, 9999, 0),
        (777, 300, 50, 9),
        (300, 777, -5, 40),
        (130, 64, 9999, -3),
    ],
)
def test_blocks_cover_the_band_once(queries, keys, left, right):
    row = 0
    for stretch in _attention_blocks.stretches(queries, keys, left, right):
        assert stretch.first == row
        for number in range(stretch.blocks):
            first, last = row, row + stretch.rows - 1
            start = np.clip(first - left, 0, keys - stretch.keys) if left < queries - 1 else 0
            assert min(last + right, keys - 1) < start + stretch.keys or last + right < 0
            assert max(first - left, 0) >= start or first - left >= keys
            row += stretch.rows
            assert number < stretch.blocks
    assert row == queries


def test_causality_saves_a_third_and_a_window_more():
    def computed(*band):
        return (
            sum(s.rows * s.blocks * s.keys for s in _attention_blocks.stretches(4096, 4096, *band)) / 4096**2
        )

    assert computed(4096, 4096) == 1
    assert computed(4096, 0) <= 0.63
    assert computed(128, 128) <= 0.08


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": normal(0, 3)}, r"expected query \(B, T, N, H\).*float32\[3\]"),
        ({"value": normal(0, 2, 13, 4, 3)}, r"key and value of one shape"),
        ({"query": normal(0, 2, 11, 3, 3)}, r"a multiple of that of key heads"),
        ({"query": normal(0, 2, 11, 4, 3, dtype=jnp.float16)}, r"one real float dtype"),
        ({"bias": normal(0, 3, 1, 1, 13)}, r"a bias that broadcasts to \(B, N, T, S\) = \(2, 4, 11, 13\)"),
        ({"mask": jnp.ones((11, 13), jnp.int32)}, r"a boolean mask"),
        ({"query_seq_lengths": jnp.ones(3, jnp.int32)}, r"query_seq_lengths int32\[2\]"),
        ({"scale": jnp.ones(4)}, r"one number for scale"),
        ({"implementation": "flash"}, r"option implementation must be .* but came as 'flash'"),
        ({"local_window_size": (1, 2, 3)}, r"option local_window_size must be .* \(1, 2, 3\)"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_refuses(change, message):
    q, k, v = inputs()
    with pytest.raises(
        RuleError, match=rf"rule nn\.dot_product_attention: {'' if 'option' in message else '.*'}{message}"
    ):
        nn.dot_product_attention(**({"query": q, "key": k, "value": v} | change))
