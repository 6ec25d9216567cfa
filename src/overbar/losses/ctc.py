"""Connectionist temporal classification, its bars by the forward-backward algorithm.

Of the N labels of a sequence there are N + 1 blank states φ_0 … φ_N, and N label states ε_0 … ε_{N−1}:
φ_n waits before label n, ε_n emits it. Every array of states has the frames first, (T, B, states).

The label states are held with an impossible one before the first, (T, B, N + 1): so each stands beside
the blank state that it passes to. A shift of what is being computed would be an array of its own, or,
fused with the exponentials, a loop that XLA does not vectorize.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._adapter import explicit_sharding, laid, vary_over, varying_axes
from overbar._contract import RuleError, describe, is_float
from overbar._dtypes import widest
from overbar._jax_nn import jax_nn
from overbar.losses._inputs import check_float, check_integers
from overbar.rule import Sample, rule

_BARS = {
    "logits": "x̄ = ℓ̄ − p Σ_k ℓ̄, ℓ̄_k = −L̄ Σ_n [k = label n] γ_n: posteriors, from α and its bars",
    "logit_paddings": "p̄ad = Σ ᾱ (α_before − α_next)",
    "label_paddings": "0: they are counted",
    "log_epsilon": "η̄ = Σ ᾱ over what starts or passes at η",
}
_RESIDUALS = {
    "logits": "x",
    "logit_paddings": "the data",
    "labels": "the data",
    "label_paddings": "the data",
    "log_epsilon": "η, a number",
    "phi": "log α of the blank states before each frame",
    "emit": "log α of the label states before each frame",
    "passed": "log α of the blank states within each frame, once the labels before have passed on",
    "new": "log α of both after each frame if it is no padding, for the bar of the paddings",
    "last": "log α of both after the last frame",
}
_ARRAYS = ("logits", "logit_paddings", "labels", "label_paddings", "log_epsilon")
_INTEGERS = ("logit_paddings", "label_paddings", "log_epsilon")


class _Lattice:
    """The operands of one call, refused where they do not fit, and what is read off them."""

    def __init__(self, name: str, blank: int, operands: Collection[ArrayLike]) -> None:
        logits, paddings, labels, label_paddings, eta = (jnp.asarray(v) for v in operands)
        check_float(name, "logits", logits)
        labels = check_integers(name, labels)
        fits = logits.ndim == 3 and paddings.shape == logits.shape[:2] and labels.ndim == 2
        if not fits or labels.shape[0] != logits.shape[0] or label_paddings.shape != labels.shape or eta.ndim:
            raise RuleError(
                f"rule {name}: expected logits (B, T, K), logit_paddings (B, T), labels (B, N), "
                f"label_paddings (B, N) and a number log_epsilon, but came logits {describe(logits)}, "
                f"logit_paddings {describe(paddings)}, labels {describe(labels)}, "
                f"label_paddings {describe(label_paddings)}, log_epsilon {describe(eta)}."
            )
        if not logits.shape[1] or not 0 <= blank < logits.shape[2]:
            raise RuleError(
                f"rule {name}: expected one frame or more and a blank_id from 0 to K − 1, "
                f"but came logits {describe(logits)}, blank_id {blank!r}."
            )
        floats = [v.dtype for v in (logits, paddings, eta) if is_float(v) and not jax.typeof(v).weak_type]
        self.dtype = dtype = widest([*floats, jnp.zeros(()).dtype])
        self.blank, self.labels = blank, labels
        self.batch, self.number = labels.shape
        self.is_class = (labels >= 0) & (labels < logits.shape[2])
        self.logits = logits.astype(dtype)
        self.eta = eta.astype(dtype)
        self.pad = paddings.astype(dtype).T[:, :, None]
        again = (labels[:, :-1] == labels[:, 1:]).astype(dtype)
        repeat = jnp.pad(again, ((0, 0), (0, 1)))[:, : self.number]  # 1 where the next label is the same
        self.repeat = jnp.pad(repeat, ((0, 0), (1, 0)))
        self.length = self.number - jnp.sum(label_paddings, axis=1).astype(jnp.int32)

    def log_probabilities(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Of all classes (B, T, K), of the labels (T, B, N), 0 for no class, and of the blank (T, B, 1)."""
        every = jax_nn.log_softmax(self.logits)
        classes = every.shape[2]
        index = jnp.clip(self.labels, 0, classes - 1)[:, None, :]
        found = jnp.take_along_axis(every, index, axis=2, mode="promise_in_bounds")
        found = jnp.where(self.is_class[:, None, :], found, jnp.zeros((), self.dtype))
        blank = every[:, :, self.blank : self.blank + 1]
        return every, found.transpose(1, 0, 2), blank.transpose(1, 0, 2)

    def start(self) -> tuple[jax.Array, jax.Array]:
        """log α before the first frame: all in φ_0."""
        phi = (jnp.ones((self.batch, self.number + 1), self.dtype) * self.eta).at[:, 0].set(0.0)
        phi = laid(phi, explicit_sharding(self.repeat))  # its batch lies where the labels' does
        return phi, _padded(phi[:, 1:], 1, 0, -jnp.inf)

    def ends(self) -> jax.Array:
        """Which blank state is the last one of its sequence."""
        number = jax.lax.broadcasted_iota(jnp.int32, (self.batch, self.number + 1), 1)
        return number == self.length[:, None]


def _padded(x: jax.Array, left: int, right: int, fill: float = 0.0) -> jax.Array:
    """x with so many entries more before and after those of its last axis."""
    return jnp.pad(x, [*[(0, 0)] * (x.ndim - 1), (left, right)], constant_values=fill)


class _Alphas(NamedTuple):
    """log α of the blank states, (T, B, N + 1), and of the label states, with a column of −∞ before them.

    Attributes:
      phi, emit: before each frame.
      passed: φ' within each frame.
      new: φ⁺ (T, B, N + 1) and ε⁺ (T, B, N), of each frame if it is no padding.
      last: phi and emit after the last frame.
    """

    phi: jax.Array
    emit: jax.Array
    passed: jax.Array
    new: tuple[jax.Array, jax.Array]
    last: tuple[jax.Array, jax.Array]


def _alphas(lattice: _Lattice) -> _Alphas:
    repeat, eta = lattice.repeat, lattice.eta

    def frame(before: Any, x: Any) -> Any:
        (phi, emit), (log_emit, log_blank, pad) = before, x
        passed, own = jnp.logaddexp(phi, emit + eta * repeat), emit[:, 1:]
        new_emit = jnp.logaddexp(passed[:, :-1] + log_emit, own + log_emit)
        new_phi = jnp.logaddexp(passed + log_blank, emit + log_blank + eta * (1.0 - repeat))
        next_emit = pad * own + (1.0 - pad) * new_emit
        next_phi = pad * phi + (1.0 - pad) * new_phi
        after = next_phi, jax.lax.dynamic_update_slice(emit, next_emit, (0, 1))
        return after, (*before, passed, (new_phi, new_emit))

    _, log_emit, log_blank = lattice.log_probabilities()
    xs = (log_emit, log_blank, lattice.pad)
    start = vary_over(lattice.start(), varying_axes((xs, repeat, eta)))
    last, (phi, emit, passed, new) = jax.lax.scan(frame, start, xs)
    return _Alphas(phi, emit, passed, new, last)


def _loss(lattice: _Lattice, alphas: _Alphas) -> jax.Array:
    ended = jnp.where(lattice.ends(), jnp.logaddexp(*alphas.last), jnp.zeros((), lattice.dtype))
    return -jnp.sum(ended, axis=1)


def _shares(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What part of e^a + e^b each is. Only a − b counts, which where it matters is exact."""
    return jax_nn.sigmoid(a - b), jax_nn.sigmoid(b - a)


# Derivation. A frame with label probabilities e, blank probability b (logarithms), padding m and r the
# repeats takes the states φ, ε to
#       φ'_n = lse(φ_n, ε_{n−1} + η r_{n−1})               φ'_0 = φ_0
#       ε⁺_n = lse(φ'_n, ε_n) + e_n
#       φ⁺_n = lse(φ'_n, ε_{n−1} + η (1 − r_{n−1})) + b     φ⁺_0 = φ'_0 + b
#   and then m of the old and 1 − m of the new. The loss is −lse(φ_N, ε_{N−1}) of the last frame.
#   (1) ȧ = σ ṗ + (1 − σ) q̇ for a = lse(p, q), where σ = e^p/(e^p + e^q) is p's share. All shares
#       follow from the α that are kept: they are worked out for all frames at once
#   (2) bars of the new: ε̄⁺ = (1 − m) ε̄ and φ̄⁺ = (1 − m) φ̄
#   (3) φ̄'_n = share(φ'_n in ε⁺_n) ε̄⁺_n + share(φ'_n in φ⁺_n) φ̄⁺_n
#   (4) φ̄_n = share(φ_n in φ'_n) φ̄'_n + m φ̄_n
#   (5) ε̄_n = share(ε_n in ε⁺_n) ε̄⁺_n + share(ε_n in φ⁺_{n+1}) φ̄⁺_{n+1} + share(ε_n in φ'_{n+1}) φ̄'_{n+1}
#       + m ε̄_n. (3) to (5) go from the last frame to the first and add positive terms times −L̄: what
#       comes out are the posteriors γ of the states, which the textbook has as αβ/p(labels)
#   (6) with (3) in (4) and (5) a frame takes each state's bar from three bars after it: its own, that of
#       the blank of its column and that of the label in the next column. The factors of all frames and
#       of both kinds of states are made at once, so that the scan has little to do
#   (7) ē_n = ε̄⁺_n and b̄ = Σ_n φ̄⁺_n, so ℓ̄_k = Σ_n [k = label n] ē_n + [k = blank] b̄; the bar
#       of a label that is no class goes to none, for its probability is the constant 1
#   (8) x̄ = ℓ̄ − p Σ_k ℓ̄ through the log-softmax
#   (9) m̄ = Σ_n ε̄_n (ε_n − ε⁺_n) + Σ_n φ̄_n (φ_n − φ⁺_n)
#   (10) η̄ collects what passed at a price of η, and what started there
def _backward(
    lattice: _Lattice, alphas: _Alphas, ended_bar: jax.Array, alpha_bars: tuple[jax.Array, jax.Array] | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The bars of logits, logit_paddings and log_epsilon.

    Args:
      lattice, alphas: the operands and what forward has kept.
      ended_bar: those of lse(φ_n, ε_{n−1}) of the last frame, (B, N + 1).
      alpha_bars: those of phi and emit after each frame where these are given out, both (T, B, N + 1).
    """
    repeat, eta, pad = lattice.repeat[None], lattice.eta, lattice.pad[:, None]
    phi, emit, passed = alphas.phi, alphas.emit, alphas.passed
    of_passed = _shares(phi, emit + eta * repeat)
    in_phi, emit_in_phi = _shares(passed, emit + eta * (1.0 - repeat))
    in_emit, emit_in_emit = _shares(_padded(passed[..., :-1], 1, 0), emit)
    in_emit = _next(in_emit)  # in the column of the φ' that they are shares of

    nothing = jnp.zeros_like(phi)
    by_passed = jnp.stack(of_passed, 1)
    by_own = pad + (1.0 - pad) * jnp.stack([nothing, emit_in_emit], 1)
    by_blank = (1.0 - pad) * (in_phi[:, None] * by_passed + jnp.stack([nothing, emit_in_phi], 1))
    by_next = (1.0 - pad) * (in_emit[:, None] * by_passed)

    def frame(bars: jax.Array, x: Any) -> Any:
        by_own, by_blank, by_next, given_out = x
        if given_out is not None:
            bars = bars + jnp.stack(given_out)
        phi_bar, emit_bar = bars
        before = by_own * bars + by_blank * phi_bar[None] + by_next * _next(emit_bar)[None]  # (6)
        return before, bars

    xs = (by_own, by_blank, by_next, alpha_bars)
    end = vary_over(jnp.stack(_shares(*alphas.last)) * ended_bar[None], varying_axes(xs))
    start, bars = jax.lax.scan(frame, end, xs, reverse=True)

    every, *_ = lattice.log_probabilities()
    phi_new, emit_new = ((1.0 - pad) * bars).swapaxes(0, 1)  # (2)
    blank_bar = jnp.sum(phi_new, axis=-1).T[:, :, None]  # (7)
    is_label = jax_nn.one_hot(lattice.labels, every.shape[2], dtype=lattice.dtype)
    of_label = jnp.where(lattice.is_class[None], emit_new[..., 1:], jnp.zeros((), lattice.dtype))
    of_class = jnp.einsum("tbn,bnk->btk", of_label, is_label, precision=jax.lax.Precision.HIGHEST)
    is_blank = jnp.arange(every.shape[2]) == lattice.blank
    of_class = of_class + jnp.where(is_blank, blank_bar, jnp.zeros((), lattice.dtype))
    whole = jnp.sum(of_label, axis=-1).T[:, :, None] + blank_bar
    logits_bar = of_class - jnp.exp(every) * whole  # (8)

    pad_bar = jnp.sum(bars[:, 0] * (phi - alphas.new[0]), axis=-1)  # (9)
    pad_bar = pad_bar + jnp.sum(bars[:, 1, :, 1:] * (emit[..., 1:] - alphas.new[1]), axis=-1)

    passed_bar = in_phi * phi_new + in_emit * _next(emit_new)  # (3)
    skipped = repeat * of_passed[1] * passed_bar + (1.0 - repeat) * emit_in_phi * phi_new
    eta_bar = jnp.sum(skipped) + jnp.sum(start[..., 1:])  # (10)
    return logits_bar, pad_bar.T, eta_bar


def _next(x: jax.Array) -> jax.Array:
    """What stands in the next column, (..., N + 1); 0 in the last."""
    return _padded(x[..., 1:], 0, 1)


def _bars_of(
    name: str, residuals: Mapping[str, Any], blank_id: int, loss_bar: jax.Array, *given_out: jax.Array
) -> dict[str, Any]:
    inputs = {n: residuals[n] for n in _ARRAYS}
    lattice = _Lattice(name, blank_id, inputs.values())
    ended_bar = jnp.where(lattice.ends(), -loss_bar[:, None], jnp.zeros((), lattice.dtype))
    alpha_bars = None
    if given_out:
        phi_bar, emit_bar = given_out
        ended_bar = ended_bar + phi_bar[-1]
        alpha_bars = phi_bar.at[-1].set(0.0), _padded(emit_bar, 1, 0)
    alphas = _Alphas(*(residuals[n] for n in _Alphas._fields))
    x_bar, pad_bar, eta_bar = _backward(lattice, alphas, ended_bar, alpha_bars)
    bars = {"logits": x_bar, "logit_paddings": pad_bar, "log_epsilon": eta_bar}
    bars["label_paddings"] = jnp.zeros(lattice.labels.shape)
    return {n: bar.astype(inputs[n].dtype) for n, bar in bars.items() if is_float(inputs[n])}


@rule(bars=_BARS, residuals=_RESIDUALS, static=("blank_id",), arrays=_ARRAYS, integers=_INTEGERS)
def ctc_loss(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
) -> jax.Array:
    """CTC loss, −log of the probability that the frames spell the labels; as `optax.losses.ctc_loss`.

    Backward: x̄ = L̄ (p − γ): the softmax minus the posterior of each class at each frame, by the
    forward-backward algorithm. What forward keeps are its log α; the bars of these, from the last
    frame to the first, are the posteriors of the states. 0 at padded frames.

    Args:
      logits: x, (B, T, K): of K classes, the blank among them; float16, bfloat16, float32 or float64.
      logit_paddings: (B, T), 1 where a frame is padding and 0 elsewhere; it has a bar where it is float.
      labels: integers (B, N). One that is no class has the probability 1, as optax has it.
      label_paddings: (B, N), 1 where a label is padding, which must be at the end; its bar is 0.
      blank_id: the class of the blank.
      log_epsilon: what stands for log 0, a number; it has a bar where it is float.

    Returns:
      (B,) losses, float32 or wider. Half precision is computed in float32.

    Raises:
      RuleError: a shape or a dtype does not fit; blank_id is no class; there are no frames.

    Source: Graves et al., "Connectionist temporal classification", 2006, section 4.

    A class with the logit −∞ is impossible, and harms no other; optax's loss is nan then.

    >>> import jax.numpy as jnp
    >>> from overbar import losses
    >>> logits = jnp.zeros((1, 2, 3))  # blank, blank and a, a and blank, a and a: 3 of 9 spell "a"
    >>> loss = losses.ctc_loss(logits, jnp.zeros((1, 2)), jnp.array([[1]]), jnp.zeros((1, 1)))
    >>> print(jnp.exp(-loss).round(4))
    [0.3333]
    """
    operands = (logits, logit_paddings, labels, label_paddings, log_epsilon)
    lattice = _Lattice("losses.ctc_loss", blank_id, operands)
    return _loss(lattice, _alphas(lattice))


@ctc_loss.forward
def ctc_loss_forward(*, blank_id: int, **inputs: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    lattice = _Lattice("losses.ctc_loss", blank_id, [inputs[n] for n in _ARRAYS])
    alphas = _alphas(lattice)
    return _loss(lattice, alphas), {**inputs, **alphas._asdict()}


@ctc_loss.backward
def ctc_loss_backward(residuals: Mapping[str, Any], y_bar: jax.Array, blank_id: int) -> dict[str, Any]:
    return _bars_of("losses.ctc_loss", residuals, blank_id, y_bar)


@rule(bars=_BARS, residuals=_RESIDUALS, static=("blank_id",), arrays=_ARRAYS, integers=_INTEGERS)
def ctc_loss_with_forward_probs(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """CTC loss and the log α of its states; the rule under `optax.losses`' name.

    Backward: as that of `ctc_loss`; the bars of the log α join those of the states on the way.

    Args:
      logits, logit_paddings, labels, label_paddings, blank_id, log_epsilon: as in `ctc_loss`.

    Returns:
      (B,) losses; (T, B, N + 1), log α of the blank states before each label and after the last;
      (T, B, N), log α of the label states. float32 or wider.

    Raises:
      RuleError: a shape or a dtype does not fit; blank_id is no class; there are no frames.

    Source: Graves et al., "Connectionist temporal classification", 2006, section 4.

    >>> import jax.numpy as jnp
    >>> from overbar import losses
    >>> args = jnp.zeros((1, 2, 3)), jnp.zeros((1, 2)), jnp.array([[1]]), jnp.zeros((1, 1))
    >>> loss, blank, label = losses.ctc_loss_with_forward_probs(*args)
    >>> print(f"{float(jnp.exp(label[-1, 0, 0])):.4f}")  # "blank a" and "a a"
    0.2222
    """
    operands = (logits, logit_paddings, labels, label_paddings, log_epsilon)
    lattice = _Lattice("losses.ctc_loss_with_forward_probs", blank_id, operands)
    return _with_probabilities(lattice, _alphas(lattice))


def _with_probabilities(lattice: _Lattice, alphas: _Alphas) -> tuple[jax.Array, jax.Array, jax.Array]:
    ended = jnp.logaddexp(*alphas.last)
    emit = jnp.concatenate([alphas.emit[1:], alphas.last[1][None]])[..., 1:]
    return _loss(lattice, alphas), jnp.concatenate([alphas.phi[1:], ended[None]]), emit


@ctc_loss_with_forward_probs.forward
def ctc_loss_with_forward_probs_forward(
    *, blank_id: int, **inputs: jax.Array
) -> tuple[tuple[jax.Array, ...], dict[str, Any]]:
    lattice = _Lattice("losses.ctc_loss_with_forward_probs", blank_id, [inputs[n] for n in _ARRAYS])
    alphas = _alphas(lattice)
    return _with_probabilities(lattice, alphas), {**inputs, **alphas._asdict()}


@ctc_loss_with_forward_probs.backward
def ctc_loss_with_forward_probs_backward(
    residuals: Mapping[str, Any], y_bar: tuple[jax.Array, jax.Array, jax.Array], blank_id: int
) -> dict[str, Any]:
    return _bars_of("losses.ctc_loss_with_forward_probs", residuals, blank_id, *y_bar)


def _by_paths(
    logits: jax.Array,
    logit_paddings: jax.Array,
    labels: jax.Array,
    label_paddings: jax.Array,
    blank_id: int,
    log_epsilon: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """All states of a sequence in one vector, all steps between them in one matrix."""
    n = labels.shape[1]
    state = jnp.arange(2 * n + 1)  # 2i is φ_i, 2i + 1 is ε_i
    at, to = state[:, None], state[None, :]

    def one(x: jax.Array, pads: jax.Array, spelled: jax.Array, absent: jax.Array) -> Any:
        again = jnp.append(spelled[1:] == spelled[:-1], False)
        price = jnp.where(again, log_epsilon, 0.0)[jnp.minimum(at // 2, n - 1)]
        on = jnp.where(at % 2 == 0, 0.0, jnp.log1p(jnp.exp(log_epsilon)))  # a label's blank: paid or free
        over = jnp.where((at % 2 == 1) & (to == at + 2), price, -jnp.inf)
        steps = jnp.where(to == at, 0.0, jnp.where(to == at + 1, on, over))
        p = x - jnp.log(jnp.exp(x).sum(-1, keepdims=True))
        classes = jnp.full(2 * n + 1, blank_id, spelled.dtype).at[1::2].set(spelled)
        is_class = (classes >= 0) & (classes < x.shape[1])
        emitted = jnp.where(is_class[None], p[:, classes % x.shape[1]], 0.0)

        def frame(alpha: jax.Array, now: Any) -> Any:
            m, e = now
            new = m * alpha + (1 - m) * (jax_nn.logsumexp(alpha[:, None] + steps, axis=0) + e)
            return new, new

        first = jnp.where(state == 0, 0.0, log_epsilon)
        _, seen = jax.lax.scan(frame, first, (pads, emitted))
        end = jnp.append(seen[-1, :1], jnp.logaddexp(seen[-1, 2::2], seen[-1, 1::2]))
        loss = -end[n - absent.sum().astype(int)]
        return loss, jnp.concatenate([seen[:-1, ::2], end[None]]), seen[:, 1::2]

    return jax.vmap(one, out_axes=(0, 1, 1))(logits, logit_paddings, labels, label_paddings)


@ctc_loss.reference
def ctc_loss_reference(**inputs: Any) -> jax.Array:
    return _by_paths(**inputs)[0]


@ctc_loss_with_forward_probs.reference
def ctc_loss_with_forward_probs_reference(**inputs: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _by_paths(**inputs)


def _samples(key: jax.Array) -> Iterator[Sample]:
    def make(name: str, b: int, t: int, n: int, k: int, padded: int = 0, **more: Any) -> Sample:
        kx, kl = jax.random.split(key)
        labels = draws.randint(kl, (b, n), 1, k)
        lengths, frames = jnp.arange(b)[:, None] % (n + 1), t - padded * (jnp.arange(b)[:, None] % 2)
        args = (
            draws.normal(kx, (b, t, k)),
            (jnp.arange(t)[None] >= frames).astype(jnp.float32),
            labels,
            (jnp.arange(n)[None] >= n - lengths // 2).astype(jnp.float32),
        )
        return Sample(name, args, **more)

    yield make("two sequences", 2, 5, 2, 3, padded=1)
    repeated = make("repeats", 1, 6, 3, 3)
    x, pads, _, absent = repeated.args
    yield Sample("repeats", (x, pads, jnp.array([[0, 0, 1]]), absent), {"blank_id": 2})
    yield make("more labels than frames", 1, 2, 3, 4)
    yield Sample("one frame", make("", 1, 1, 1, 2).args, {"log_epsilon": -8.0})
    yield make("no sequences", 0, 2, 1, 3)
    yield make("bench", 16, 160, 40, 64, padded=20, tags=("bench",))


ctc_loss.samples(_samples)
ctc_loss_with_forward_probs.samples(_samples)
