"""What holds in every test: strict promotion, and a registry that is left as it was found."""

import os

# Two test processes share a GPU where there is one; by default the first would take most of it.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
# Two virtual devices where there is but a CPU, for what is sharded.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")

import jax
import pytest

import overbar


@pytest.fixture(autouse=True, scope="session")
def _compiled_once(tmp_path_factory):
    """What one test compiles is found by the next, by the other worker and by the scripts that are run."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    settings = {
        "jax_compilation_cache_dir": str(folder / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield


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
