"""What the tests of the graph share."""

import jax
import pytest


@pytest.fixture
def permissive():
    """The models are written as people write, with ranks that spread and dtypes that mix."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield
