"""Stand-ins for rules that are being written: to be gone before this is merged."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax
from jax import lax

import overbar

nn = SimpleNamespace(**{n: getattr(overbar.nn, n) for n in overbar.nn.__all__})
losses = SimpleNamespace(**{n: getattr(overbar.losses, n) for n in overbar.losses.__all__})


def rms_norm(x, scale=None, *, axis=-1, eps=1e-6):
    y = x * lax.rsqrt((x * x).mean(axis, keepdims=True) + eps)
    return y if scale is None else y * jnp.broadcast_to(scale, y.shape)


def conv(x, kernel, bias=None, *, strides=1, padding="SAME", dilation=1, groups=1):
    s = "WHD"[: kernel.ndim - 2]
    strides = (strides,) * len(s) if isinstance(strides, int) else strides
    y = lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=(f"N{s}C", f"{s}IO", f"N{s}C")
    )
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


def max_pool(x, window, strides=None, padding="VALID"):
    n = x.ndim - 2
    w = (1, *((window,) * n if isinstance(window, int) else window), 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, w, w, padding)


def gru(x, w_ih, w_hh, b_ih, b_hh, *, h0=None):
    hidden = w_hh.shape[0]
    a = nn.linear(x, w_ih, b_ih)

    def step(h, a):
        b = nn.linear(h, w_hh, b_hh)
        ar, az, an = jnp.split(a, 3, -1)
        br, bz, bn = jnp.split(b, 3, -1)
        r, z = jax.nn.sigmoid(ar + br), jax.nn.sigmoid(az + bz)
        n = jnp.tanh(an + r * bn)
        h = (1 - z) * n + z * h
        return h, h

    return lax.scan(step, jnp.zeros((x.shape[1], hidden), x.dtype), a)[1]


def lstm(x, w_ih, w_hh, b, *, h0=None, c0=None):
    hidden = w_hh.shape[0]
    a = nn.linear(x, w_ih, b)
    zero = jnp.zeros((x.shape[1], hidden), x.dtype)

    def step(state, a):
        h, c = state
        i, f, g, o = jnp.split(a + nn.linear(h, w_hh), 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return lax.scan(step, (zero, zero), a)[1]


def dropout(key, x, rate):
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)


def embedding(table, ids):
    return table[ids]


def linear_cross_entropy(h, w, labels):
    return optax.losses.softmax_cross_entropy_with_integer_labels(h @ w, labels)


vars(nn).update(rms_norm=rms_norm, conv=conv, max_pool=max_pool, gru=gru, lstm=lstm, dropout=dropout)
vars(nn).update(embedding=embedding, gelu=jax.nn.gelu, silu=jax.nn.silu)
vars(nn).update(dot_product_attention=jax.nn.dot_product_attention)
vars(losses).update(linear_cross_entropy=linear_cross_entropy)
vars(losses).update(
    softmax_cross_entropy_with_integer_labels=optax.losses.softmax_cross_entropy_with_integer_labels
)
