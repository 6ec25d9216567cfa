"""Rules under `optax.losses`' names and signatures."""

from overbar.losses.regression import l2_loss, squared_error

__all__ = ["l2_loss", "squared_error"]
