"""Digits are learnt, by the rules and by autodiff along the same curve."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

import digits
import harness


@pytest.fixture(scope="module")
def images():
    return digits.load()


def losses(images, seed, autodiff=False, steps=200):
    loss = harness.select(digits.make_loss(1e-5), autodiff)
    key = jax.random.key(seed)
    states = digits.descent(loss, images, key, hidden=32, learning_rate=0.01, steps=steps)
    return [state.loss for state in itertools.islice(states, steps + 1)]


def test_the_split_keeps_each_digit_s_share(images):
    train, test = images
    assert train.x.shape == (1347, 64)
    assert test.x.shape == (450, 64)
    assert train.x.dtype == train.t.dtype == np.float32
    np.testing.assert_allclose(train.t.mean(axis=0), test.t.mean(axis=0), atol=0.002)


def test_a_pass_shows_each_image_once_and_the_next_in_another_order(images):
    train, _ = images
    numbered = digits.Images(np.arange(len(train.x)), np.arange(len(train.x)))
    a_pass = len(train.x) // digits.BATCH
    batches = list(itertools.islice(digits.minibatches(numbered, jax.random.key(0)), 2 * a_pass))
    first, second = (
        np.concatenate([b.x for b in batches[:a_pass]]),
        np.concatenate([b.x for b in batches[a_pass:]]),
    )
    assert len(set(first)) == len(first) == a_pass * digits.BATCH
    assert not np.array_equal(first, second)
    assert all(np.array_equal(b.x, b.t) for b in batches)


def test_rules_and_autodiff_train_along_the_same_curve(images):
    # Some 1e-7 a step: 6e-7 is the largest seen, over 1500 steps.
    np.testing.assert_allclose(losses(images[0], 0), losses(images[0], 0, autodiff=True), rtol=1e-5)


def test_a_seed_gives_one_curve_and_another_another(images):
    first, again, other = (losses(images[0], seed, steps=30) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_it_reaches_97_percent(tmp_path, read_metrics, capsys):
    assert digits.main(["--out", str(tmp_path)]) == 0
    last = read_metrics(tmp_path)[-1]
    assert last["test_accuracy"] >= 0.97
    assert f"digits: {100 * last['test_accuracy']:.1f} % of 450 test images right" in capsys.readouterr().out


def test_only_a_whole_run_can_fall_short(tmp_path, monkeypatch):
    argv = ["--steps", "3", "--out", str(tmp_path)]
    assert digits.main(argv) == 0
    monkeypatch.setattr(digits, "STEPS", 3)
    assert digits.main(argv) == 1
