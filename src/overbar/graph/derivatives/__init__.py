"""The message of a node to one of its parents, worked out as on paper.

terms         products as a person writes them, with the shapes they stand for
backward      the way back through a node's equations, one after the other
step          one equation on that way, and what many of them do with a term
elementwise, sums, products, pieces, named
              what each primitive multiplies on; and JAX's own functions that have a formula of their own
values        how what lies in between is written: sqrt(var + 10⁻⁵)
"""

from __future__ import annotations

from overbar.graph.derivatives.backward import LONGEST, Backward

__all__ = ["LONGEST", "Backward"]
