"""What the tests of the command line share: a module of functions in the current folder."""

import sys
import textwrap

import pytest

RULES = """
    import time, sys
    import jax, jax.numpy as jnp

    @jax.custom_vjp
    def good(x):
        return x**2

    good.defvjp(lambda x: (x**2, x), lambda x, y_bar: (2 * x * y_bar,))

    @jax.custom_vjp
    def bad(x):
        return x**2

    bad.defvjp(lambda x: (x**2, x), lambda x, y_bar: (x * y_bar,))

    @jax.custom_vjp
    def through(x):
        return jnp.round(x)

    through.defvjp(lambda x: (jnp.round(x), None), lambda _, y_bar: (y_bar,))

    def identity(x):
        return x

    class Model:
        loss = staticmethod(good)

    number = 3

    def positional():
        return (jnp.ones(3),)

    def both():
        return (jnp.ones(3),), {"scale": 2}

    def keywords():
        return {"x": jnp.ones(3), "scale": 2}

    def array():
        return jnp.ones(3)

    def failing():
        raise RuntimeError("no data\\nhere")

    def scaled(x, scale=None):
        assert isinstance(scale, int), "no scale"
        return scale * good(x)

    def seeded(x, f, seed):
        print("f runs")
        return good(x) * f * seed

    def leaving(x):
        sys.exit(7)

    def plain(x):
        return jnp.sin(x)

    def sleeping(x):
        print("ready", file=sys.stderr, flush=True)
        time.sleep(60)
        return x
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the current folder; its name is its own, as modules are imported once."""
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)

    def write(name, text=RULES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text), "utf-8")

    write("cli_rules.py")
    yield write
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
