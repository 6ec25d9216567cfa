"""Declarations: what the wrapper refuses, what it handles by itself, and that planted faults are caught."""

import copy
import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import overbar
from overbar import RuleError, Sample, elementwise, losses, nn, regularizers, rule

BARS = {"x": "x̄ = ȳ w", "w": "w̄ = ȳ x"}
RESIDUALS = {"x": "the input", "w": "the weight"}


def good_forward(x, w):
    return x * w, {"x": x, "w": w}


def good_backward(residuals, y_bar):
    return {"x": y_bar * residuals["w"], "w": y_bar * residuals["x"]}


def product(forward=good_forward, backward=good_backward, bars=BARS, residuals=RESIDUALS, **options):
    """A rule for x·w with one of its pieces exchanged."""

    def times(x, w):
        return x * w

    made = rule(bars=bars, residuals=residuals, **options)(times)
    if forward:
        made.forward(forward)
    if backward:
        made.backward(backward)
    made.reference(lambda x, w: jnp.exp(jnp.log(x * x) / 2) * jnp.sign(x) * w)
    made.samples(lambda key: [Sample("vectors", tuple(jax.random.normal(key, (2, 4))))])
    return made


def differentiate(made, x=None, w=None):
    x = jnp.arange(1.0, 4.0) if x is None else x
    w = jnp.ones(3) if w is None else w
    return jax.make_jaxpr(lambda x, w: jax.vjp(made, x, w)[1](x * w))(x, w)  # traced only, not run


class TestRefusedWhenTraced:
    """Each message names the rule, the input, what came and what was expected."""

    @pytest.mark.parametrize(
        ("backward", "message"),
        [
            (lambda r, y: {"x": y}, r"missing bar.*input w, which is float32\[3\]"),
            (lambda r, y: {"x": y, "w": y, "b": y}, r"unknown input b \(float32\[3\]\).*\['x', 'w'\]"),
            (lambda r, y: {"x": None, "w": y}, r"None as the bar of input x, which is float32\[3\].*zeros"),
            (lambda r, y: {"x": y[:2], "w": y}, r"bar of input x is float32\[2\].*input is float32\[3\]"),
            (lambda r, y: {"x": y.sum(), "w": y}, r"bar of input x is float32\[\].*input is float32\[3\]"),
            (
                lambda r, y: {"x": y, "w": y.astype(jnp.bfloat16)},
                r"input w is bfloat16\[3\].*is float32\[3\]",
            ),
            (lambda r, y: {"x": y, "w": y.astype(int)}, r"input w is int32\[3\].*is float32\[3\]"),
            (lambda r, y: {"x": np.ones(3), "w": y}, r"input x is float64\[3\].*is float32\[3\]"),
            (
                lambda r, y: {"x": y, "w": y.astype(jnp.complex64)},
                r"input w is complex64\[3\].*is float32\[3\]",
            ),
            (lambda r, y: {"x": y, "w": 0.0}, r"bar of input w is the float 0.0.*is float32\[3\]"),
            (lambda r, y: {"x": y, "w": "zero"}, r"bar of input w is the str 'zero'"),
            (lambda r, y: {"x": (y, y), "w": y}, r"bar of input x is \(float32\[3\], float32\[3\]\)"),
            (lambda r, y: (y, y), r"must return \{input: bar\}, but returned \(float32\[3\], float32\[3\]\)"),
            (lambda r, y: None, r"must return \{input: bar\}, but returned None"),
        ],
    )
    def test_backward(self, backward, message):
        with pytest.raises(RuleError, match=rf"product\.times: .*{message}"):
            differentiate(product(backward=backward))

    @pytest.mark.parametrize(
        ("forward", "message"),
        [
            (
                lambda x, w: (x * w, {"x": x, "w": w, "z": x}),
                r"undeclared residual z \(float32\[3\]\).*\['x', 'w'\]",
            ),
            (lambda x, w: (x * w, {"x": x}), r"declared residual w.*None"),
            (
                lambda x, w: x * w,
                r"forward must return \(y, \{residual: value\}\), but returned float32\[3\]",
            ),
            (lambda x, w: (x * w, (x, w)), "forward must return"),
            (lambda x, w: ((x * w).sum(), {"x": x, "w": w}), r"returned float32\[\] for y.*float32\[3\]"),
            (
                lambda x, w: ((x * w).astype(jnp.float16), {"x": x, "w": w}),
                r"float16\[3\] for y.*float32\[3\]",
            ),
            (lambda x, w: ((x * w, x), {"x": x, "w": w}), r"\(float32\[3\], float32\[3\]\) for y"),
            (
                lambda x, w: (x * w, {"x": x, "w": "w"}),
                r"residual w must hold arrays only, but is the str 'w'",
            ),
            (lambda x, w: (x * w, {"x": x, "w": w.dtype}), r"residual w must hold arrays only.*float32"),
        ],
    )
    def test_forward(self, forward, message):
        with pytest.raises(RuleError, match=rf"product\.times: .*{message}"):
            differentiate(product(forward=forward))

    @pytest.mark.parametrize(
        ("piece", "without"), [("forward", {"forward": None}), ("backward", {"backward": None})]
    )
    def test_incomplete(self, piece, without):
        made = product(**without)
        assert made.missing == (piece,)
        with pytest.raises(RuleError, match=rf"product.times: incomplete declaration: {piece} not declared"):
            made(jnp.ones(3), jnp.ones(3))

    def test_float_input_without_a_declared_bar(self):
        made = product(bars={"x": "x̄ = ȳ w"}, backward=lambda r, y: {"x": y})
        with pytest.raises(
            RuleError, match=r"input w came as float32\[3\].*must be integers.*no bar is declared"
        ):
            made(jnp.ones(3), jnp.ones(3))

    def test_under_jit_as_well(self):
        made = product(backward=lambda r, y: {"x": y})
        with pytest.raises(RuleError, match="missing bar"):
            jax.jit(jax.grad(lambda x, w: made(x, w).sum()))(jnp.ones(3), jnp.ones(3))

    def test_leaf_of_a_pytree_by_its_path(self):
        @rule(bars={"p": "p̄"}, residuals={})
        def total(p):
            return p["a"].sum() + p["b"].sum()

        total.forward(lambda p: (total.primal(p), {}))
        total.backward(lambda r, y: {"p": {"a": jnp.zeros(2), "b": jnp.zeros(4)}})
        with pytest.raises(RuleError, match=r"bar of input p\['b'\] is float32\[4\].*float32\[3\]"):
            jax.grad(total)({"a": jnp.ones(2), "b": jnp.ones(3)})


class TestRefusedWhenDeclared:
    def test_name_twice(self):
        product()
        with pytest.raises(RuleError, match=r"product\.times' is registered twice.*test_rule.py:\d+"):
            product()
        assert product(replace=True) is overbar.registry[f"{__name__}.product.times"]
        assert product(name="another").name == "another"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"bars": {"x": "", "y": ""}}, r"bar is declared for \['y'\], but the inputs are \['x', 'w'\]"),
            ({"bars": {}}, "incomplete declaration: no bar"),
            ({"static": ("axis",)}, r"static names \['axis'\] are no parameters of times\(x, w\)"),
            ({"static": ("x",)}, r"bar is declared for \['x'\]"),
            (
                {"forward": lambda x: None},
                r"forward must take the primal's parameters \('x', 'w'\).*\('x',\)",
            ),
            ({"backward": lambda residuals: None}, r"backward takes \(residuals, y_bar\)"),
            ({"backward": lambda residuals, y_bar, axis: None}, r"backward takes .*'axis'"),
        ],
    )
    def test_declaration(self, options, message):
        with pytest.raises(RuleError, match=message):
            product(**options)

    def test_piece_twice(self):
        with pytest.raises(RuleError, match=r"backward is declared twice, first at .*test_rule.py:\d+"):
            product().backward(good_backward)

    def test_primal_without_a_name(self):
        primal = functools.partial(jnp.tensordot, axes=1)
        with pytest.raises(RuleError, match="no name of its own; declare the rule with name="):
            rule(bars={"a": ""}, residuals={})(primal)
        assert rule(bars={"a": ""}, residuals={}, static=["axes"], name="dot")(primal).name == "dot"

    @pytest.mark.parametrize(
        ("row", "primal", "message"),
        [
            (
                {"derivative": lambda z: z},
                lambda x: x,
                r"derivative takes \['z'\], but there are \['half', 'x', 'y', 'y_bar'\]",
            ),
            ({"derivative": lambda y: y}, lambda y: y, "y is the output"),
            ({"derivative": lambda x: x}, lambda x, y_bar: x, "y_bar its bar"),
            ({"derivative": lambda x: x}, lambda: 1.0, r"\['x'\], but the inputs are \[\]"),
        ],
    )
    def test_elementwise_row(self, row, primal, message):
        with pytest.raises(RuleError, match=message):
            elementwise(**row, equation="", reference=primal, name="row")(primal)

    def test_a_refused_row_leaves_its_name_free(self):
        row = {"equation": "", "reference": lambda x: x, "name": "row"}
        with pytest.raises(RuleError, match="derivative takes"):
            elementwise(lambda z: z, **row)(lambda x: x)
        with pytest.raises(RuleError, match="option accuracy, which its primal does not have"):
            elementwise(lambda y: y, accurate=lambda x: x, **row)(lambda x: x)
        with pytest.raises(RuleError, match="reference must take"):
            elementwise(lambda y: y, **row | {"reference": lambda z: z})(lambda x: x)
        assert elementwise(lambda y: y, **row)(lambda x: x).name == "row"

    @pytest.mark.parametrize("piece", ["forward", "backward", "reference", "samples"])
    def test_a_piece_is_a_function(self, piece):
        with pytest.raises(RuleError, match=f"{piece} must be a function, but came 3"):
            getattr(product(forward=None, backward=None, name="pieces"), piece)(3)

    @pytest.mark.parametrize("what", ["bars", "residuals"])
    def test_texts_are_a_dict(self, what):
        with pytest.raises(RuleError, match=rf"{what} must be a dict from names to texts, but came \['x'\]"):
            product(**{what: ["x"]})

    def test_nameless_parameters(self):
        with pytest.raises(RuleError, match=r"parameter '\*xs' has no name"):
            rule(bars={"xs": ""}, residuals={})(lambda *xs: xs)


WRONG = {
    "sign": lambda r, y: {"x": -y * r["w"], "w": y * r["x"]},
    "swapped": lambda r, y: {"x": y * r["x"], "w": y * r["w"]},
    "bar ignored": lambda r, y: {"x": r["w"] + 0 * y, "w": y * r["x"]},
    "bar squared": lambda r, y: {"x": y * y * r["w"], "w": y * r["x"]},
    "off by 1e-6": lambda r, y: {"x": y * r["w"] * (1 + 1e-6), "w": y * r["x"]},
    "one entry zeroed": lambda r, y: {"x": (y * r["w"]).at[-1].set(0), "w": y * r["x"]},
    "clipped": lambda r, y: {"x": jnp.clip(y * r["w"], -1, 1), "w": y * r["x"]},
    "mean for sum": lambda r, y: {"x": y * r["w"] / y.size, "w": y * r["x"]},
    "wrong where negative": lambda r, y: {"x": y * jnp.abs(r["w"]), "w": y * r["x"]},
    "wrong second derivative": lambda r, y: {"x": y * jax.lax.stop_gradient(r["w"]), "w": y * r["x"]},
    "detached bar": lambda r, y: {"x": jax.lax.stop_gradient(y) * r["w"], "w": y * r["x"]},
}


@pytest.mark.usefixtures("x64")
class TestPlantedFaults:
    """The check of the table-driven test sees each wrong backward, and passes the right one."""

    def checked(self, made):
        (sample,) = made.parts["samples"](jax.random.key(1))
        return overbar.check(made, *sample.args, **sample.options)

    def test_right_one_passes(self):
        assert self.checked(product()).verdict == "correct"

    @pytest.mark.parametrize("fault", list(WRONG))
    def test_wrong_one_is_caught(self, fault):
        assert self.checked(product(backward=WRONG[fault])).verdict == "wrong"

    def test_forward_that_computes_something_else(self):
        made = product(forward=lambda x, w: (x * w * 1.001, {"x": x, "w": w}))
        assert self.checked(made).findings[0].check == "forward"


class TestHandledByItself:
    def test_static_options_positional_or_keyword(self):
        @rule(bars={"x": "x̄ = n ȳ xⁿ⁻¹"}, residuals={"x": "the input"}, static=("n", "flip"))
        def power(x, n=2, *, flip=False):
            return -(x**n) if flip else x**n

        @power.forward
        def _(x, n, *, flip):
            return power.primal(x, n, flip=flip), {"x": x}

        @power.backward
        def _(residuals, y_bar, n, flip):
            return {"x": (-n if flip else n) * y_bar * residuals["x"] ** (n - 1)}

        def slope(*args, **options):
            return float(jax.grad(lambda x: power(x, *args, **options))(3.0))

        assert slope() == 6.0
        assert slope(3) == slope(n=3) == 27.0
        assert slope(3, flip=True) == -27.0
        assert slope(1) == slope(1.0) == 1.0
        assert jax.jit(lambda x: power(x, n=3))(2.0) == 8.0
        with pytest.raises(RuleError, match=r"option n must be a static Python value.*int32\[\]"):
            power(2.0, jnp.int32(3))
        with pytest.raises(RuleError, match=r"option n must be a static Python value"):
            jax.jit(lambda x, n: power(x, n))(2.0, 3)
        with pytest.raises(RuleError, match=r"option n must be hashable.*set \{3\}"):
            power(2.0, {3})
        assert slope(np.int64(3)) == 27.0
        assert power.bind(2.0, [np.int32(3), [1]])[1]["n"] == (3, (1,))
        with pytest.raises(RuleError, match=r"power: .*'m'; call it as power\(x, n=2, \*, flip=False\)"):
            power(2.0, m=3)

    def test_integer_inputs_and_keys(self):
        @rule(
            bars={"x": "x̄ = ȳ at index, times the mask"},
            residuals={"mask": "", "index": "", "x": "its shape"},
        )
        def pick(x, index, key, drop=None):
            return (x * jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype))[index]

        @pick.forward
        def _(x, index, key, drop):
            mask = jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype)
            return (x * mask)[index], {"mask": mask, "index": index, "x": x}

        @pick.backward
        def _(residuals, y_bar):
            x_bar = jnp.zeros_like(residuals["x"]).at[residuals["index"]].add(y_bar)
            return {"x": x_bar * residuals["mask"]}

        x, index = jnp.arange(1.0, 7.0), jnp.array([0, 2, 2, 5])
        for key in (jax.random.key(4), jax.random.PRNGKey(4)):
            got = jax.grad(lambda x, key=key: pick(x, index, key).sum())(x)
            want = jax.grad(lambda x, key=key: pick.primal(x, index, key).sum())(x)
            np.testing.assert_array_equal(got, want)
        bars = jax.vjp(pick, x, index, jax.random.key(4))[1](jnp.ones(4))
        assert bars[1].dtype == bars[2].dtype == jax.dtypes.float0

    def test_integer_bar_is_refused_unless_none(self):
        @rule(bars={"x": "x̄ = n ȳ"}, residuals={"n": ""})
        def scale(x, n):
            return x * n.astype(x.dtype)

        scale.forward(lambda x, n: (scale.primal(x, n), {"n": n}))
        scale.backward(lambda r, y: {"x": y * r["n"].astype(y.dtype), "n": y})
        with pytest.raises(
            RuleError, match=r"float32\[\] as the bar of input n, which is int32\[\] and has none"
        ):
            jax.grad(scale)(2.0, jnp.int32(3))

    def test_pytrees_with_integers_and_none(self):
        @rule(bars={"params": "p̄ = ȳ"}, residuals={})
        def total(params, scale=None):
            return params["w"].sum() + params["layers"][0].sum()

        total.forward(lambda params, scale: (total.primal(params), {}))
        total.backward(
            lambda r, y: {
                "params": {
                    "w": jnp.full(3, 1.0) * y,
                    "layers": [jnp.full(2, 1.0) * y],
                    "step": None,
                    "none": None,
                }
            }
        )
        params = {"w": jnp.ones(3), "layers": [jnp.ones(2)], "step": jnp.int32(3), "none": None}
        got = jax.grad(total, allow_int=True)(params)
        assert got["step"].dtype == jax.dtypes.float0
        np.testing.assert_array_equal(got["w"], np.ones(3))

    def test_several_outputs(self):
        @rule(bars={"x": "x̄ = s̄ cos x − c̄ sin x"}, residuals={"x": "the input"})
        def sincos(x):
            return {"sin": jnp.sin(x), "cos": jnp.cos(x)}

        sincos.forward(lambda x: (sincos.primal(x), {"x": x}))
        sincos.backward(
            lambda r, y_bar: {"x": y_bar["sin"] * jnp.cos(r["x"]) - y_bar["cos"] * jnp.sin(r["x"])}
        )
        assert jax.grad(lambda x: sincos(x)["cos"])(0.5) == -jnp.sin(0.5)

    def test_python_numbers_and_numpy_arrays(self):
        assert float(jax.grad(nn.sigmoid)(0.0)) == 0.25
        assert nn.sigmoid(np.zeros(3, np.float32)).shape == (3,)
        assert jax.grad(lambda w: nn.linear(np.ones((2, 3), np.float32), w).sum())(
            jnp.ones((3, 1))
        ).shape == (3, 1)

    def test_a_rule_copies_and_pickles_as_a_function_does(self):
        assert copy.deepcopy({"act": nn.sigmoid})["act"] is nn.sigmoid
        assert pickle.loads(pickle.dumps(nn.linear)) is nn.linear

    def test_it_is_a_function_to_jax_and_to_python(self):
        assert jax.jit(nn.sigmoid)(0.0) == 0.5
        assert jax.vmap(nn.sigmoid)(jnp.zeros(3)).shape == (3,)
        assert nn.sigmoid.__name__ == "sigmoid"
        assert "x̄ = ȳ y (1 − y)" in repr(nn.sigmoid)

    def test_forward_mode_raises(self):
        with pytest.raises(TypeError, match="forward-mode"):
            jax.jvp(nn.sigmoid, (0.0,), (1.0,))

    def test_no_check_is_left_in_the_program(self):
        """The compiled gradient of a rule is as long as that of its primal."""

        def operations(f):
            return len(jax.make_jaxpr(jax.grad(lambda x: f(x).sum()))(jnp.ones(3)).eqns)

        assert operations(nn.sigmoid) <= operations(nn.sigmoid.primal)

    def test_options_that_are_equal_but_not_the_same(self):
        @rule(bars={"x": "x̄"}, residuals={}, static=("o",))
        def scaled(x, o):
            return x * (o[0] // 2 if isinstance(o[0], int) else o[0] / 2)

        scaled.forward(lambda x, o: (scaled.primal(x, o), {}))
        scaled.backward(lambda r, y_bar, o: {"x": y_bar * (o[0] // 2 if isinstance(o[0], int) else o[0] / 2)})
        for f in (lambda o: scaled(1.0, o), lambda o: jax.grad(lambda x: scaled(x, o))(1.0)):
            assert [float(f(o)) for o in [(3,), (3.0,)]] == [1.0, 1.5]

    def test_weak_types_stay_weak(self):
        assert jax.grad(nn.sigmoid)(1.0).weak_type
        assert jax.typeof(jax.grad(nn.sigmoid)(1.0) * jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16

    def test_float0_from_the_author(self):
        @rule(bars={"x": "x̄ = n ȳ"}, residuals={"n": ""})
        def times(x, n):
            return x * n.astype(x.dtype)

        times.forward(lambda x, n: (times.primal(x, n), {"n": n}))
        times.backward(lambda r, y: {"x": y * r["n"].astype(y.dtype), "n": np.zeros((), jax.dtypes.float0)})
        assert jax.grad(times)(2.0, jnp.int32(3)) == 3.0


def model(params, x, t):
    y = nn.relu(nn.softplus(nn.tanh(nn.sigmoid(nn.linear(x, *params)))))
    return losses.l2_loss(y, t).sum() + losses.squared_error(y, t).sum()


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices; conftest asks for two virtual ones")
class TestOnlySomeBarsAreAsked:
    """As with autodiff, what only other bars need is neither kept nor worked out."""

    x, w, b = jax.random.normal(jax.random.key(1), (3, 4, 4))
    b = b[0]

    @pytest.mark.parametrize(("asked", "kept"), [((0,), "w"), ((1,), "x"), ((2,), ""), ((0, 1), "xw")])
    def test_residuals_of_a_layer(self, asked, kept):
        inputs = [self.x, self.w, self.b]

        def layer(*some):
            filled = [*inputs]
            for i, value in zip(asked, some, strict=True):
                filled[i] = value
            return nn.linear(*filled)

        y, pullback = jax.vjp(layer, *(inputs[i] for i in asked))
        held = jax.tree.leaves(pullback)
        assert len(held) == len(kept)
        for value, name in zip(held, kept, strict=True):
            chex.assert_trees_all_equal(value, getattr(self, name))
        want = jax.vjp(nn.linear, *inputs)[1](y)
        chex.assert_trees_all_equal(pullback(y), tuple(want[i] for i in asked))

    def test_one_leaf_of_a_pytree(self):
        def of_b(b, norm):
            return norm({"w": self.w, "b": b})

        held = jax.tree.leaves(jax.vjp(functools.partial(of_b, norm=regularizers.l2), self.b)[1])
        chex.assert_trees_all_equal(held, [self.b])
        chex.assert_trees_all_equal(
            jax.grad(of_b)(self.b, regularizers.l1), jax.grad(of_b)(self.b, overbar.twin(regularizers.l1))
        )

    def test_a_bar_nobody_asked_for_is_not_worked_out(self):
        def backward(residuals, y_bar):
            return {"x": y_bar * residuals["w"], "w": y_bar * jnp.sin(residuals["x"])}

        made = product(backward=backward)
        for asked, worked_out in ((0, False), (1, True)):
            args = [self.x, self.w]
            f = functools.partial(
                lambda asked, args, a: made(*args[:asked], a, *args[asked + 1 :]), asked, args
            )
            pullback = jax.vjp(f, args[asked])[1]
            assert (" sin " in str(jax.make_jaxpr(pullback)(self.w))) == worked_out

    @pytest.mark.parametrize(
        "through",
        [
            lambda f: jax.jit(jax.grad(f)),
            lambda f: jax.grad(jax.checkpoint(f)),
            lambda f: jax.hessian(f),
            lambda f: jax.grad(lambda a: jnp.sin(jax.grad(f)(a)).sum()),
            lambda f: jax.vmap(jax.grad(f), in_axes=1),
            lambda f: jax.grad(
                lambda a: jax.lax.scan(lambda s, k: (s + f(k * a), None), 0.0, jnp.ones(2))[0]
            ),
        ],
        ids=["jit", "checkpoint", "hessian", "grad of grad", "vmap", "map"],
    )
    def test_through_every_transform(self, through):
        def f(x):
            t = jnp.broadcast_to(self.b, x.shape)
            return losses.kl_divergence(nn.log_softmax(x), nn.softmax(t)).sum()

        got, want = through(f)(self.x), through(overbar.twin(f))(self.x)
        chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-7)

    def test_an_output_nobody_uses(self):
        def pair(x, w):
            return x * w, jnp.sign(x) + w, jnp.argmax(x)

        made = rule(bars=BARS, residuals=RESIDUALS, name="pair")(pair)
        made.forward(lambda x, w: (pair(x, w), {"x": x, "w": w}))

        @made.backward
        def backward(residuals, y_bars):
            first, second, _ = y_bars
            return {"x": first * residuals["w"], "w": first * residuals["x"] + second}

        for asked in (0, 1, (0, 1)):
            for used in (0, 1):
                got, want = (
                    jax.grad(lambda x, w, f=f, used=used: f(x, w)[used].sum(), asked)(self.x, self.w)
                    for f in (made, pair)
                )
                chex.assert_trees_all_close(got, want)


class TestOnAMesh:
    """Batch or features sharded: the bars are those of one device."""

    def arguments(self):
        keys = iter(jax.random.split(jax.random.key(0), 4))
        params = jax.random.normal(next(keys), (3, 2)), jax.random.normal(next(keys), (2,))
        return params, jax.random.normal(next(keys), (4, 3)), jax.random.normal(next(keys), (4, 2))

    @pytest.mark.parametrize("check_vma", [True, False])
    def test_shard_map_over_the_batch(self, check_vma):
        args = self.arguments()
        mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

        def mean(params, x, t):
            return jax.lax.psum(model(params, x, t), "data") + regularizers.l2(params)

        sharded = jax.shard_map(
            mean, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P(), check_vma=check_vma
        )
        want = jax.grad(lambda *a: model(*a) + regularizers.l2(a[0]), (0, 1))(*args)
        got = jax.jit(jax.grad(sharded, (0, 1)))(*args)
        chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-6)
        for asked in (0, 1):
            got = jax.jit(jax.grad(sharded, asked))(*args)
            chex.assert_trees_all_close(got, want[asked], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("specs", [(P(), P("d", None)), (P(None, "d"), P())])
    def test_explicit_sharding(self, specs):
        params, x, t = self.arguments()
        want = jax.grad(model, (0, 1))(params, x, t)
        w, x_spec = specs
        mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))
        with jax.set_mesh(mesh):
            placed = (jax.device_put(params[0], w), jax.device_put(params[1], P(w[1] if len(w) else None)))
            y_spec = P(x_spec[0] if len(x_spec) else None, w[1] if len(w) else None)
            placed = (placed, jax.device_put(x, x_spec), jax.device_put(t, y_spec))
            got = [jax.grad(model, asked)(*placed) for asked in ((0, 1), 0, 1)]
        chex.assert_trees_all_close(jax.device_get(got), [want, *want], rtol=1e-5, atol=1e-6)


def prelu(**row):
    return elementwise(
        {
            "x": lambda x, slope: jnp.where(x < 0, slope, jnp.ones_like(x)),
            "slope": lambda x: jnp.minimum(x, 0),
        },
        {"x": "x̄ = ȳ where x ≥ 0, else ȳ slope", "slope": "slope̅ = Σ ȳ min(x, 0)"},
        reference=lambda x, slope: jnp.maximum(x, 0) + slope * jnp.minimum(x, 0),
        name="prelu",
        **row,
    )(lambda x, slope=None: x if slope is None else jnp.where(x < 0, slope * x, x))


class TestElementwiseOfSeveralInputs:
    x = np.array([[-1.0, 2.0, -3.0], [4.0, -5.0, 6.0]], np.float32)

    @pytest.mark.parametrize("shape", [(), (1,), (1, 3), (2, 1), (1, 1), (2, 3)])
    def test_an_input_that_was_broadcast_gets_the_sum(self, shape):
        with jax.numpy_rank_promotion("allow"):
            slope = np.linspace(0.1, 0.6, int(np.prod(shape)), dtype=np.float32).reshape(shape)
            bars = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
            got = jax.vjp(prelu(), self.x, slope)[1](bars)
            want = jax.vjp(lambda x, s: jnp.maximum(x, 0) + s * jnp.minimum(x, 0), self.x, slope)[1](bars)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)

    def test_a_python_number_stays_weak_and_has_its_bar(self):
        made = prelu()
        x = self.x.astype(jnp.bfloat16)
        assert made(x, 0.5).dtype == jnp.bfloat16
        assert jax.grad(lambda s: made(x, s).astype(jnp.float32).sum())(0.5) == -9.0

    def test_integers_have_no_bar_where_they_may_come(self):
        made = prelu(integers=("slope",))
        x_bar, slope_bar = jax.vjp(made, self.x, 2)[1](self.x)
        np.testing.assert_array_equal(x_bar, np.where(self.x < 0, 2, 1) * self.x)
        assert slope_bar.dtype == jax.dtypes.float0
        with pytest.raises(RuleError, match=r"integers is declared for \['z'\]"):
            rule(bars={"x": ""}, residuals={}, integers=("z",), name="z")(lambda x: x)

    def test_integers_are_refused_elsewhere(self):
        with pytest.raises(RuleError, match="input slope must be float"):
            prelu()(self.x, 2)

    def test_an_equation_for_each_derivative(self):
        with pytest.raises(RuleError, match=r"derivatives are given for \['b', 'x'\], equations for \['x'\]"):
            elementwise({"x": lambda b: b, "b": lambda x: x}, "x̄", reference=lambda x, b: x)(lambda x, b: x)


def test_a_rule_drops_what_backward_returns_for_integers():
    made = product(name="labelled", integers=("w",))
    with jax.numpy_dtype_promotion("standard"):
        y, pullback = jax.vjp(made, jnp.arange(3.0), jnp.arange(3))
        bars = pullback(jnp.ones(3))
    np.testing.assert_array_equal(y, [0.0, 1.0, 4.0])
    np.testing.assert_array_equal(bars[0], [0.0, 1.0, 2.0])
    assert bars[1].dtype == jax.dtypes.float0
