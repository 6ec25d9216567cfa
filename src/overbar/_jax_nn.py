"""jax.nn as it was when this library was imported: a model may put our rules in its place later.

>>> import jax
>>> from overbar import nn
>>> before, jax.nn.celu = jax.nn.celu, nn.celu
>>> float(jax.nn.celu(1.0))
1.0
>>> jax.nn.celu = before
"""

from __future__ import annotations

from types import SimpleNamespace

import jax

jax_nn = SimpleNamespace(**vars(jax.nn))
