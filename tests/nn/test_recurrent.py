"""Recurrent layers: beside loops written out, their states, what is kept, what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import overbar
from overbar import RuleError, nn
from overbar.check.oracle import Side
from overbar.check.units.memory import kept_by

pytestmark = pytest.mark.once  # the registry's tests run on every version

RULES = {"rnn": (nn.rnn, 1, 1, 1), "gru": (nn.gru, 3, 2, 1), "lstm": (nn.lstm, 4, 1, 2)}


def inputs(name, t, b, d, h, dtype=jnp.float32, states=True):
    """x, weights, biases and, as the last, the first states."""
    _, gates, biases, n_states = RULES[name]
    shapes = [(t, b, d), (d, gates * h), (h, gates * h), *[(gates * h,)] * biases]
    shapes += [(b, h)] * n_states * states
    rng = np.random.default_rng(0)
    scales = [1.0, *[h**-0.5] * (len(shapes) - 1)]
    return [
        jnp.asarray(c * rng.standard_normal(s).astype(np.float32), dtype)
        for c, s in zip(scales, shapes, strict=True)
    ]


def with_states(name, f=None, **options):
    """The layer, or another function of its signature, with the first states among its arguments."""
    rule, _, biases, n_states = RULES[name]

    def called(*args):
        n = 3 + biases
        return (f or rule)(*args[:n], **dict(zip(("h0", "c0")[:n_states], args[n:], strict=True)), **options)

    return called


def reference(name):
    rule, _, _, n_states = RULES[name]
    options = {"return_cell": False} if name == "lstm" else {}
    call = functools.partial(rule.parts["reference"], **options)
    return lambda *args: call(*args, **dict.fromkeys(("h0", "c0")[:n_states]))


def pulled(f, args, seed=3):
    y, pullback = jax.vjp(f, *args)
    rng = np.random.default_rng(seed)
    return y, pullback(jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape), a.dtype), y))


def logistic(z):
    return 0.5 * (1 + jnp.tanh(z / 2))


def blocks(number, v):
    """A matrix's or a bias's blocks of columns."""
    return jnp.split(v, number, -1)


def rnn_loop(x, w_ih, w_hh, b, h0):
    h, every = h0, []
    for x_t in x:
        h = jnp.tanh(jnp.einsum("bd,dh->bh", x_t, w_ih) + jnp.einsum("bk,kh->bh", h, w_hh) + b[None])
        every.append(h)
    return jnp.stack(every)


def gru_loop(x, w_ih, w_hh, b_ih, b_hh, h0):
    """As PyTorch documents it, a product for each block."""
    (w_ir, w_iz, w_in), (w_hr, w_hz, w_hn) = blocks(3, w_ih), blocks(3, w_hh)
    (b_ir, b_iz, b_in), (b_hr, b_hz, b_hn) = ([c[None] for c in blocks(3, b)] for b in (b_ih, b_hh))
    h, every = h0, []
    for x_t in x:
        r = logistic(x_t @ w_ir + b_ir + h @ w_hr + b_hr)
        z = logistic(x_t @ w_iz + b_iz + h @ w_hz + b_hz)
        n = jnp.tanh(x_t @ w_in + b_in + r * (h @ w_hn + b_hn))
        h = n - z * n + z * h
        every.append(h)
    return jnp.stack(every)


def lstm_loop(x, w_ih, w_hh, b, h0, c0):
    """-> the states and the last cell state; a product for each block."""
    w_is, w_hs, bs = blocks(4, w_ih), blocks(4, w_hh), [c[None] for c in blocks(4, b)]
    h, c, every = h0, c0, []
    for x_t in x:
        z_i, z_f, z_g, z_o = (x_t @ w_i + h @ w_h + b for w_i, w_h, b in zip(w_is, w_hs, bs, strict=True))
        c = logistic(z_f) * c + logistic(z_i) * jnp.tanh(z_g)
        h = logistic(z_o) * jnp.tanh(c)
        every.append(h)
    return jnp.stack(every), c


LOOPS = {"rnn": rnn_loop, "gru": gru_loop, "lstm": lstm_loop}


def assert_close(got, want, tolerance=1e-9):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(
            a, b, rtol=tolerance, atol=tolerance * (1e-3 + np.max(np.abs(b), initial=0))
        )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("sizes", [(3, 2, 2, 3), (1, 1, 1, 1)], ids=str)
def test_is_the_loop_from_given_states(name, sizes):
    """Values and all the bars, those of h0 and c0 and the one from the cell state returned too."""
    args = inputs(name, *sizes, dtype=jnp.float64)
    options = {"return_cell": True} if name == "lstm" else {}
    got, want = (pulled(f, args) for f in (jax.jit(with_states(name, **options)), jax.jit(LOOPS[name])))
    assert_close(got, want)


@pytest.mark.parametrize("name", RULES)
def test_without_states_is_from_zeros(name):
    args = inputs(name, 2, 2, 1, 2, states=False)
    zeros = [jnp.zeros((2, 2))] * RULES[name][3]
    got, want = pulled(RULES[name][0], args), pulled(with_states(name), [*args, *zeros])
    np.testing.assert_array_equal(got[0], want[0])
    for a, b in zip(got[1], want[1], strict=False):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("sizes", [(0, 2, 1, 2), (2, 0, 1, 2)], ids=str)
def test_nothing_in_nothing_out(name, sizes):
    """No step: the bars of the first states are those that came from behind; an empty batch: zeros."""
    t, b, _, h = sizes
    args = inputs(name, *sizes)
    y, bars = pulled(with_states(name), args)
    assert y.shape == (t, b, h)
    assert [bar.shape for bar in bars] == [a.shape for a in args]
    assert all(not np.any(bar) for bar in bars)


def test_no_step_returns_the_first_cell():
    args = inputs("lstm", 0, 2, 1, 2)
    (_, c), pullback = jax.vjp(with_states("lstm", return_cell=True), *args)
    np.testing.assert_array_equal(c, args[-1])
    np.testing.assert_array_equal(pullback((jnp.zeros((0, 2, 2)), jnp.ones((2, 2))))[-1], 1)


@pytest.mark.once
def test_lstm_goes_on_where_it_stopped():
    """A sequence in two parts, joined by y[-1] and the returned cell state: values and bars of the whole."""

    def in_parts(x, w_ih, w_hh, b):
        first, c = nn.lstm(x[:2], w_ih, w_hh, b, return_cell=True)
        return jnp.concatenate([first, nn.lstm(x[2:], w_ih, w_hh, b, h0=first[-1], c0=c)])

    args = inputs("lstm", 5, 2, 2, 3, states=False)
    assert_close(pulled(in_parts, args), pulled(nn.lstm, args), 1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("scale", [1.0, 40.0], ids=["ordinary", "saturated"])
def test_error_is_near_autodiffs(name, dtype, scale):
    """Root mean square distance to the float64 bars of the same inputs, beside jax.grad's of a plain scan.

    In half precision it is far less. In float32 it is not always at most: one long product for the
    weights' bars rounds more than a sum of a product a step does (measured: up to 1.74 times as much here,
    1.5 at the bench sample). In 32 parts it would be 1.0; but parts in a loop take a training step of an
    LSTM from 0.61 of Equinox's time to 0.90, and parts side by side from 35 MB to 76.
    """
    args = inputs(name, 24, 8, 8, 16, dtype, states=False)
    args[1:] = [a * jnp.asarray(scale, dtype) for a in args[1:]]
    f, plain = RULES[name][0], reference(name)

    def bars(f, dtype):
        y_bar = jnp.asarray(np.random.default_rng(5).standard_normal((24, 8, 16)), jnp.bfloat16)
        y, pullback = jax.vjp(f, *(a.astype(dtype) for a in args))
        return [np.asarray(a, np.float64) for a in (y, *pullback(y_bar.astype(dtype)))]

    def error(got):
        return [np.sqrt(np.mean((a - b) ** 2)) for a, b in zip(got, truth, strict=True)]

    truth = bars(plain, jnp.float64)
    bound = 2.0 if dtype == jnp.float32 else 0.6
    for ours, autodiffs in zip(error(bars(f, dtype)), error(bars(plain, dtype)), strict=True):
        assert ours <= bound * autodiffs


@pytest.mark.parametrize(("name", "kept"), [("rnn", 1), ("gru", 5), ("lstm", 6)])
def test_keeps_little(name, kept):
    """x and the weights, which are there anyway, and of each step h, the gates once and the cell state."""
    args = [np.asarray(a) for a in inputs(name, 16, 4, 8, 8, states=False)]
    functions = RULES[name][0], reference(name)
    ours, plain = (kept_by(Side(lambda *xs, f=f: [f(*xs)], False), args) for f in functions)
    assert ours == (4 * (sum(a.size for a in args[:3]) + kept * 16 * 4 * 8), 0, 0)
    assert ours[0] < 0.7 * plain[0]


def scans_of(program):
    for eqn in program.eqns:
        if eqn.primitive.name == "scan":
            yield eqn
        else:
            for inner in jax.tree.leaves(list(eqn.params.values())):
                if hasattr(inner, "eqns"):
                    yield from scans_of(inner)


@pytest.mark.parametrize("name", RULES)
def test_one_product_a_step_each_way(name):
    """The input's share is made before the forward scan, the weights' bars after the backward one."""
    args = inputs(name, 4, 2, 3, 2, states=False)
    program = jax.make_jaxpr(lambda *a: pulled(RULES[name][0], a))(*args)
    inside = [str(eqn.params["jaxpr"]).count("dot_general[") for eqn in scans_of(program)]
    assert inside == [1, 1]


@pytest.mark.once
@pytest.mark.parametrize("name", RULES)
def test_second_derivatives_from_given_states(name):
    """jax.hessian, and grad of grad, in the first state and through time."""
    args = inputs(name, 3, 1, 1, 2)

    def loss(f, h0):
        n = 3 + RULES[name][2]
        return jnp.sum(f(*args[:n], h0, *args[n + 1 :]) ** 3)

    h0 = args[3 + RULES[name][2]]
    ours, twins = (functools.partial(loss, f) for f in (with_states(name), overbar.twin(with_states(name))))
    assert_close(jax.jit(jax.hessian(ours))(h0), jax.jit(jax.hessian(twins))(h0), 1e-4)

    def norm(f):
        return jax.jit(jax.grad(lambda h: jnp.sum(jax.grad(f)(h) ** 2)))

    assert_close(norm(ours)(h0), norm(twins)(h0), 1e-4)


@pytest.mark.once
@pytest.mark.parametrize("name", RULES)
def test_batch_over_a_mesh(name):
    """Under shard_map each device has its part of the batch; the weights' bars are summed over them."""
    if jax.device_count() < 2:
        pytest.skip("one device")
    args = inputs(name, 3, 4, 2, 2, states=False)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = (P(None, "batch"), *[P()] * (len(args) - 1))
    sharded = jax.shard_map(RULES[name][0], mesh=mesh, in_specs=specs, out_specs=P(None, "batch"))
    assert_close(pulled(jax.jit(sharded), args), pulled(RULES[name][0], args), 1e-5)


def ones(*shape, dtype=jnp.float32):
    return jnp.ones(shape, dtype)


LSTM = (ones(5, 2, 3), ones(3, 16), ones(4, 16), ones(16))


@pytest.mark.parametrize(
    ("rule", "args", "states", "message"),
    [
        (
            nn.lstm,
            (ones(2, 3), *LSTM[1:]),
            {},
            r"x \(T, B, D\).*\(D, 4H\).*x float32\[2,3\], w_ih float32\[3,16\]",
        ),
        (nn.lstm, (LSTM[0], ones(3, 12), *LSTM[2:]), {}, r"w_ih \(D, 4H\).*w_ih float32\[3,12\]"),
        (nn.lstm, (*LSTM[:2], ones(3, 16), LSTM[3]), {}, r"w_hh \(H, 4H\).*w_hh float32\[3,16\]"),
        (nn.lstm, (*LSTM[:3], ones(4)), {}, r"b \(16,\) = \(4H,\).*b float32\[4\]"),
        (nn.lstm, (*LSTM[:3], None), {}, r"input b is None"),
        (nn.lstm, LSTM, {"h0": ones(4)}, r"h0 \(2, 4\) = \(B, H\).*h0 float32\[4\]"),
        (nn.lstm, LSTM, {"c0": ones(1, 4)}, r"c0 \(2, 4\) = \(B, H\).*c0 float32\[1,4\]"),
        (nn.lstm, LSTM, {"c0": ones(2, 4, dtype=jnp.bfloat16)}, r"one dtype.*c0 bfloat16\[2,4\]"),
        (nn.lstm, (LSTM[0].astype(int), *LSTM[1:]), {}, r"input x must be float.*int32\[5,2,3\]"),
        (nn.lstm, [a.astype(jnp.complex64) for a in LSTM], {}, r"must be real.*x complex64\[5,2,3\]"),
        (nn.gru, (*LSTM[:3], LSTM[3], LSTM[3]), {}, r"w_hh \(H, 3H\).*b_hh float32\[16\]"),
        (
            nn.gru,
            (LSTM[0], ones(3, 12), ones(4, 12), ones(12), ones(4)),
            {},
            r"b_hh \(12,\).*b_hh float32\[4\]",
        ),
        (nn.rnn, (LSTM[0], ones(3, 4), ones(4, 5), ones(4)), {}, r"w_ih \(D, H\).*w_hh float32\[4,5\]"),
    ],
)
def test_refuses(rule, args, states, message):
    with pytest.raises(RuleError, match=f"rule {rule.name}: .*{message}"):
        rule(*args, **states)


@pytest.mark.once
def test_lstm_learns_to_add():
    """The adding problem: of a sequence of numbers, the sum of the two that are marked."""
    steps, batch, hidden = 8, 32, 16

    def draw(key):
        kv, km = jax.random.split(key)
        values = jax.random.uniform(kv, (steps, batch))
        places = jax.random.uniform(km, (steps, batch)).argsort(axis=0)
        marks = (places < 2).astype(jnp.float32)
        return jnp.stack([values, marks], axis=-1), jnp.sum(values * marks, axis=0)

    def loss(parameters, key):
        x, target = draw(key)
        h = nn.lstm(x, *parameters[:3])[-1]
        return jnp.mean((nn.linear(h, *parameters[3:])[:, 0] - target) ** 2)

    _, w_ih, w_hh, b = inputs("lstm", 1, 1, 2, hidden, states=False)
    parameters = [w_ih, w_hh, b, jnp.zeros((hidden, 1)), jnp.zeros(1)]
    adam = optax.adam(1e-2)

    def train(state, key):
        parameters, moments = state
        value, bars = jax.value_and_grad(loss)(parameters, key)
        updates, moments = adam.update(bars, moments)
        return (optax.apply_updates(parameters, updates), moments), value

    keys = jax.random.split(jax.random.key(0), 800)
    with jax.numpy_dtype_promotion("standard"):  # optax counts its steps in integers
        _, losses = jax.jit(lambda s: jax.lax.scan(train, s, keys))((parameters, adam.init(parameters)))
    assert losses[-50:].mean() < 0.01  # always to say 1 costs 1/6


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
@pytest.mark.parametrize("name", RULES)
def test_on_a_mesh_with_explicit_axes(name):
    """The batch sharded, of x or of the first states: the bars are those of one device."""
    args = inputs(name, 3, 4, 2, 5)
    states = RULES[name][3]
    bars = jax.jit(jax.grad(lambda *a: jnp.sum(with_states(name)(*a) ** 3), tuple(range(len(args)))))
    expected = bars(*args)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    for x, state in ((P(None, "d"), P()), (P(), P("d"))):
        specs = [x, *[P()] * (len(args) - 1 - states), *[state] * states]
        with jax.set_mesh(mesh):
            got = bars(*map(jax.device_put, args, specs))
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(np.asarray(a), b, rtol=1e-5, atol=1e-5)
