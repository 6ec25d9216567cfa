"""What holds in every test: strict promotion, and a registry that is left as it was found."""

import os

# Two test processes share a GPU where there is one; by default the first would take most of it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# Two virtual devices where there is but a CPU, for what is sharded.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

import jax
import pytest

import overbar


@pytest.fixture(autouse=True)
def _strict():
    """No silent promotion of dtypes or ranks; warnings are errors through the pytest settings."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True)
def _same_registry():
    """Rules that a test or an example declares leave with it."""
    before = set(overbar.registry)
    yield
    for name in set(overbar.registry) - before:
        overbar.registry.remove(name)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
