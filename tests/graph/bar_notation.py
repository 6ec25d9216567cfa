"""Reads equations in bar notation back as numbers, as `overbar.graph.equations` says they are to be read.

It knows nothing of jaxprs or derivatives: only names, their values, and the notation. An axis that is summed
over (Σ₁, max₁) goes, or stays with size 1 where it would not fit else.
"""

import itertools
import re
import unicodedata

import jax.numpy as jnp
import numpy as np

from .bar_functions import function

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉ₓ", "0123456789,")
NUMBER = re.compile(r"(\d+(?:\.\d+)?)·10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)|10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)|(\d+(?:\.\d+)?)|½|∞|π")
WORD = re.compile(r"[^\W\d_][a-zA-Z0-9_]*(?:\.[a-z][a-zA-Z0-9_]*)*|σ")


class Unreadable(ValueError):
    """The text is no equation in bar notation."""


def read(text, names, shape):
    """The number that an equation stands for.

    Args:
      text: the right side, such as "z̄ x + R̄ w".
      names: what its names stand for.
      shape: of what it is equal to.
    """
    names = {unicodedata.normalize("NFC", name): value for name, value in names.items()}
    text = unicodedata.normalize("NFC", text)
    why = None
    reductions = len(re.findall(r"Σ|∏|max[₀-₉(]|min[₀-₉(]|(?:mean|var|std|logsumexp)[₀-₉(]", text))
    for stay in sorted(itertools.product((False, True), repeat=reductions), key=sum):
        try:
            return Reading(text, names, shape, stay).whole()
        except (Unreadable, TypeError, ValueError, IndexError) as error:
            why = error
    raise Unreadable(f"{text}: {why}") from why


class Reading:
    """One pass over the text, by recursive descent."""

    def __init__(self, text, names, shape, stay):
        self.text, self.names, self.shape, self.stay = text, names, shape, iter(stay)
        self.at, self.spreads = 0, False
        self.longest_first = sorted(names, key=len, reverse=True)

    def whole(self):
        value = self.sum()
        if self.at != len(self.text):
            raise Unreadable(f"stops at {self.text[self.at :]!r}")
        value = np.asarray(value)
        solid = [n for n in value.shape if n != 1]
        if self.spreads or self.text == "0":
            return np.broadcast_to(value, self.shape)
        if solid != [n for n in self.shape if n != 1]:
            raise Unreadable(f"is of shape {value.shape}, not {self.shape}")
        return value.reshape(self.shape)

    # ------------------------------------------------------------------ letters

    def peek(self, *texts):
        return next((t for t in texts if self.text.startswith(t, self.at)), None)

    def take(self, *texts):
        if (found := self.peek(*texts)) is not None:
            self.at += len(found)
        return found

    def need(self, text):
        if not self.take(text):
            raise Unreadable(f"{text!r} is missing at {self.text[self.at :]!r}")

    def digits(self, letters):
        start = self.at
        while self.at < len(self.text) and self.text[self.at] in letters:
            self.at += 1
        return self.text[start : self.at]

    def spaced(self):
        self.take(" ")

    # ------------------------------------------------------------------ sums and products

    def sum(self):
        negative = self.take("−")
        value = self.quotient()
        value = -value if negative else value
        while sign := self.take(" + ", " − "):
            term = self.quotient()
            value = together(value, term, np.add if sign == " + " else np.subtract)
        return value

    def quotient(self):
        value = self.product()
        if self.take(" / "):
            value = together(value, self.factor()[0], np.divide)
            if self.peek(" ⊙", " (", " [") or self.text[self.at : self.at + 2].strip().isalnum():
                raise Unreadable("a factor follows a divisor")
        return value

    def product(self):
        value, row = self.factor()
        while True:
            if self.take(" ⊙ "):
                value, row = together(value, self.beside(), np.multiply), False
            elif self.starts_a_factor():
                self.need(" ")
                other, row_of_other = self.factor()
                value, row = multiplied(value, row, other, row_of_other)
            else:
                return value

    def beside(self):
        """Matrices beside each other, between two ⊙."""
        value, row = self.factor()
        while self.starts_a_factor():
            self.need(" ")
            other, row_of_other = self.factor()
            value, row = multiplied(value, row, other, row_of_other)
        return value

    def starts_a_factor(self):
        if not self.peek(" "):
            return False
        following = self.text[self.at + 1 : self.at + 2]
        return bool(following) and following not in "+−/⊙><≥≤=≠∧∨" and not self.peek(" for ")

    # ------------------------------------------------------------------ factors

    def factor(self):
        """(its value, whether it is a vector on its side)."""
        value, row = self.base(), False
        while True:
            if self.take("ᵀ"):
                value = np.asarray(value)
                if value.ndim < 2:
                    row = True
                else:
                    value = np.swapaxes(value, -1, -2)
            elif power := self.digits("⁻⁰¹²³⁴⁵⁶⁷⁸⁹"):
                value = value ** float(power.translate(SUPERSCRIPTS))
            elif self.take("^"):
                value = together(value, self.factor()[0], np.power)
            elif self.take(".at["):
                index, how = self.index(), self.take(".set(", ".add(", ".multiply(")
                value = put(value, index, how[1:-1], self.sum())
                self.need(")")
            elif self.take("["):
                value = value[self.index()]
            else:
                return value, row

    def base(self):
        for name in self.longest_first:
            end = self.at + len(name)
            if self.text.startswith(name, self.at) and not continues(self.text[end : end + 1]):
                self.at = end
                return np.asarray(self.names[name])
        if self.take("("):
            return self.closed(")", tuple)
        if self.take("["):
            value = self.closed("]", list)
            if isinstance(value, list):
                return np.asarray(value).astype(int) if all(np.ndim(v) == 0 for v in value) else value
            return value.astype(float)
        if self.take("⟨"):
            left = self.sum()
            self.need(", ")
            right = self.sum()
            self.need("⟩")
            return (left * right).sum(-1, keepdims=left.ndim > 1)
        if self.take("Σ"):
            axes = self.axes()
            self.spaced()
            return self.reduced(self.factor()[0], axes, np.sum)
        if self.take("∏"):
            axes = self.axes()
            self.spaced()
            return self.reduced(self.factor()[0], axes, np.prod)
        if sign := self.take("𝟏", "𝟎"):
            shape = self.digits("₀₁₂₃₄₅₆₇₈₉ₓ").translate(SUBSCRIPTS)
            self.spreads |= not shape and sign == "𝟏"
            given = tuple(int(n) for n in shape.split(",")) if shape else self.shape
            return np.ones(given if shape else ()) if sign == "𝟏" else np.zeros(given)
        if self.take("√"):
            return np.sqrt(self.factor()[0])
        if found := NUMBER.match(self.text, self.at):
            self.at = found.end()
            return number(found)
        return self.call()

    def closed(self, end, kind):
        items = [self.condition()]
        while self.take(", "):
            items.append(self.condition())
        self.take(",")
        self.need(end)
        return items[0] if len(items) == 1 and self.text[self.at - 2] != "," else kind(items)

    def condition(self):
        if self.take("not "):
            return ~self.comparison().astype(bool)
        value = self.comparison()
        while word := self.take(" ∧ ", " ∨ "):
            other = self.condition()
            value = value & other if word == " ∧ " else value | other
        return value

    def comparison(self):
        value, found = self.sum(), None
        while sign := self.take(" > ", " < ", " ≥ ", " ≤ ", " = ", " ≠ "):
            names = ["greater", "less", "greater_equal", "less_equal", "equal", "not_equal"]
            compare = getattr(jnp, names["><≥≤=≠".index(sign.strip())])
            other = self.sum()
            one = together(value, other, compare)
            found, value = one if found is None else found & one, other
        return value if found is None else found

    def axes(self):
        found = self.digits("₀₁₂₃₄₅₆₇₈₉,")
        if found.endswith(","):
            self.at, found = self.at - 1, found[:-1]
        return tuple(int(a) for a in found.translate(SUBSCRIPTS).split(",")) if found else None

    def reduced(self, value, axes, how):
        stays = next(self.stay)
        if axes is None:
            return how(value)
        return how(value, axis=axes, keepdims=stays)

    def index(self):
        parts = [self.slice()]
        while self.take(", "):
            parts.append(self.slice())
        self.need("]")
        return tuple(parts)

    def slice(self):
        if self.take("None"):
            return None
        if self.take("..."):
            return ...
        found = [None if self.peek(":", "]", ",") else self.integer()]
        while self.take(":"):
            found.append(None if self.peek(":", "]", ",") else self.integer())
        return found[0] if len(found) == 1 else slice(*found)

    def integer(self):
        if self.take("-"):
            return -self.integer()
        value = self.sum()
        while sign := self.take("+"):
            value = value + self.sum()
            del sign
        return int(value) if np.ndim(value) == 0 else value.astype(int)

    def call(self):
        found = WORD.match(self.text, self.at)
        if not found:
            raise Unreadable(f"nothing is known that begins so: {self.text[self.at :]!r}")
        self.at, word = found.end(), found.group()
        word += "′" * bool(self.take("′"))
        axes = self.axes()
        self.need("(")
        given, named = [], {}
        while not self.take(")"):
            key = re.compile(r"([a-z_]+)=").match(self.text, self.at)
            if key:
                self.at = key.end()
            argument = self.argument()
            if key:
                named[key.group(1)] = argument
            else:
                given.append(argument)
            self.take(", ")
        if word in ("max", "min", "mean", "var", "std", "logsumexp") and len(given) == 1:
            return self.reduced(given[0], axes, getattr(np, word, None) or function(word))
        if word in ("max", "min"):
            next(self.stay)
            return together(*given, getattr(jnp, f"{word}imum"))
        return function(word)(*given, **named)

    def argument(self):
        if quoted := re.compile(r"'([^']*)'").match(self.text, self.at):
            self.at = quoted.end()
            return quoted.group(1).replace("→", "->")
        for word, value in (("True", True), ("False", False), ("None", None)):
            if self.take(word):
                return value
        return plain(self.condition())


def plain(value):
    """Numbers as an argument of a function: axes, shapes."""
    if isinstance(value, tuple | list):
        return type(value)(plain(v) for v in value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def number(found):
    mantissa, exponent, power, decimal = found.groups()
    if found.group() in "½∞π":
        return {"½": 0.5, "∞": float("inf"), "π": float(np.pi)}[found.group()]
    if decimal is not None:
        return float(decimal)
    return float(mantissa or 1) * 10.0 ** float((exponent or power).translate(SUPERSCRIPTS))


def continues(letter):
    word = letter.isalnum() and letter not in "ᵀ⁻⁰¹²³⁴⁵⁶⁷⁸⁹"
    return word or letter == "_" or (bool(letter) and unicodedata.combining(letter) != 0)


def multiplied(a, row_a, b, row_b):
    """Two factors beside each other: scaled by a scalar, or multiplied as matrices."""
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim == 0:
        return a * b, row_b
    if b.ndim == 0:
        return a * b, row_a
    if a.ndim == 1 and row_b:
        return np.outer(a, b), False
    if a.ndim == b.ndim == 1:
        raise Unreadable("two vectors beside each other")
    if a.ndim > 1 and row_b and a.shape[-1] == 1:
        return a * b, False
    return a @ b, False


def together(a, b, how):
    """Entry by entry, as NumPy broadcasts."""
    a, b = np.asarray(a), np.asarray(b)
    return how(a, b)


def put(array, index, how, value):
    """array.at[index].set(value)."""
    found = np.array(array)
    if how == "set":
        found[index] = value
    elif how == "add":
        np.add.at(found, index, value)
    else:
        found[index] *= value
    return found
