"""Names as a person writes them, λ for lam and h₁ for h1, and the bar over them."""

from __future__ import annotations

import unicodedata

_GREEK = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "chi",
    "psi",
    "omega",
]
GREEK = {
    name: unicodedata.lookup(f"GREEK SMALL LETTER {'LAMDA' if name == 'lambda' else name.upper()}")
    for name in _GREEK
}
GREEK |= {
    name.capitalize(): unicodedata.lookup(
        f"GREEK CAPITAL LETTER {'LAMDA' if name == 'lambda' else name.upper()}"
    )
    for name in ("gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "phi", "psi", "omega")
}
GREEK |= {"lam": "λ", "lambda_": "λ", "lamda": "λ", "lmbda": "λ", "lambd": "λ", "eps": "ε", "sig": "σ"}

_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def symbol(name: str) -> str:
    """A name as a person writes it.

    >>> [symbol(n) for n in ("lam", "w1", "L_reg", "sigma_2", "params.w1", "hidden")]
    ['λ', 'w₁', 'L_reg', 'σ₂', 'params.w₁', 'hidden']
    """
    path, dot, last = name.rpartition(".")
    if last in GREEK:
        return path + dot + GREEK[last]
    base, underscore, below = last.partition("_")
    letters = base.rstrip("0123456789")
    digits = base[len(letters) :]
    letters = GREEK.get(letters, letters)
    if letters and len(letters) == 1:
        if digits:
            letters += digits.translate(_SUBSCRIPTS)
        if underscore and below.isdecimal():
            return path + dot + letters + ("," if digits else "") + below.translate(_SUBSCRIPTS)
        return path + dot + letters + underscore + below
    return name


def barred(text: str) -> str:
    """A symbol with its bar: over the letter where there is one, over a whole word else.

    >>> [barred(s) for s in ("z", "L_reg", "w₁", "params.w")]
    ['z̄', 'L̄_reg', 'w̄₁', 'params.w̄']
    """
    path, dot, last = text.rpartition(".")
    letters = 0
    while letters < len(last) and last[letters].isalpha():
        letters += 1
    if not letters:  # [0], of a sequence
        path, dot, last, letters = "", "", text, max(1, len(text.split("[")[0].split(".")[0]))
    if letters == 1:
        return unicodedata.normalize("NFC", path + dot + last[0] + "\u0304" + last[1:])
    over = "".join(letter + "\u0305" for letter in last[:letters])
    return path + dot + over + last[letters:]


def is_word(text: str) -> bool:
    """Whether it can stand after a dot: letters, digits, subscripts."""
    return bool(text) and all(c.isalnum() or c == "_" for c in text) and not text[0].isdecimal()
