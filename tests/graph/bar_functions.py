"""The functions that equations in bar notation name, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.special


def running_sum(x, axis=0, reverse=False):
    return np.flip(np.cumsum(np.flip(x, axis), axis), axis) if reverse else np.cumsum(x, axis)


def conv_transpose(bar, kernel):
    """Each entry of the bar spread over the window it was summed of; NCHW, VALID, the strides as they fit."""
    n, _, height, width = bar.shape
    _, channels, k, m = kernel.shape
    found = np.zeros((n, channels, STRIDE * (height - 1) + k, STRIDE * (width - 1) + m))
    for i, j in np.ndindex(height, width):
        window = np.einsum("no,ochw->nchw", bar[:, :, i, j], kernel)
        found[:, :, STRIDE * i : STRIDE * i + k, STRIDE * j : STRIDE * j + m] += window
    return found


def correlate(x, bar):
    """The windows, each times the entry of the bar that was summed of it."""
    (height, width), (h, w) = x.shape[2:], bar.shape[2:]
    k, m = height - STRIDE * (h - 1), width - STRIDE * (w - 1)
    found = np.zeros((bar.shape[1], x.shape[1], k, m))
    for i, j in np.ndindex(h, w):
        window = x[:, :, STRIDE * i : STRIDE * i + k, STRIDE * j : STRIDE * j + m]
        found += np.einsum("no,nchw->ochw", bar[:, :, i, j], window)
    return found


STRIDE = 2
FUNCTIONS = {
    "σ": scipy.special.expit,
    "softmax": lambda x, axis=-1: scipy.special.softmax(x, axis),
    "log_softmax": lambda x, axis=-1: scipy.special.log_softmax(x, axis),
    "logsumexp": scipy.special.logsumexp,
    "cumsum": running_sum,
    "conv_transpose": conv_transpose,
    "correlate": correlate,
    "det": np.linalg.det,
    "inv": np.linalg.inv,
    "solve": np.linalg.solve,
    "solve_triangular": scipy.linalg.solve_triangular,
    "one_hot": lambda i, n: np.eye(n)[i],
    "rsqrt": lambda x: x**-0.5,
    "erf_inv": scipy.special.erfinv,
    "relu": lambda x: np.maximum(x, 0.0),
    "max": np.max,
    "min": np.min,
}
PLACES = (np, scipy.special)


def function(name):
    if name.endswith("′"):
        f = next(
            getattr(place, name[:-1])
            for place in (jax.nn, jnp, jax.scipy.special, jax.lax)
            if hasattr(place, name[:-1])
        )
        return lambda x: np.asarray(jax.jit(jax.vmap(jax.grad(f)))(x.ravel())).reshape(x.shape)
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    for place in PLACES:
        if hasattr(place, name):
            return getattr(place, name)
    raise ValueError(f"no function is called {name!r}")
