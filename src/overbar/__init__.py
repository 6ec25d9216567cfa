"""Hand-derived backward rules for JAX in bar notation: x̄ = ∂L/∂x.

>>> import jax, jax.numpy as jnp
>>> from overbar import losses, nn
>>> def loss(w, b, x, t):
...     return losses.l2_loss(nn.sigmoid(nn.linear(x, w, b)), t).mean()
>>> w, b = jnp.zeros((2, 1)), jnp.zeros(1)
>>> x, t = jnp.eye(2), jnp.ones((2, 1))
>>> w_bar, b_bar = jax.grad(loss, argnums=(0, 1))(w, b, x, t)  # through the rules
>>> b_bar
Array([-0.125], dtype=float32)
>>> import overbar
>>> jax.grad(overbar.twin(loss), argnums=1)(w, b, x, t)  # the same by JAX's own autodiff
Array([-0.125], dtype=float32)
"""

from overbar import losses, nn, regularizers
from overbar._contract import RuleError
from overbar.check import Report, assert_correct, check
from overbar.elementwise import elementwise
from overbar.graph import Graph, GraphError, Message, Node, Nonfinite, find_nonfinite, make_graph
from overbar.rule import Registry, Rule, Sample, registry, rule
from overbar.twin import twin

__version__ = "0.1.0"

__all__ = [
    "Graph",
    "GraphError",
    "Message",
    "Node",
    "Nonfinite",
    "Registry",
    "Report",
    "Rule",
    "RuleError",
    "Sample",
    "__version__",
    "assert_correct",
    "check",
    "elementwise",
    "find_nonfinite",
    "losses",
    "make_graph",
    "nn",
    "registry",
    "regularizers",
    "rule",
    "twin",
]
