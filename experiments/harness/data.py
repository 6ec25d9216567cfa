"""The data sets by name, and mini-batches whose place can be saved.

xor, parity:N       every input of N bits and whether its ones are odd in number
digits              scikit-learn's 1797 images of 8 × 8 pixels
mnist1d             Greydanus' 4000 + 1000 signals of 40 points, made on the spot
a folder            MNIST's four IDX files, gzipped or not (Fashion-MNIST, MNIST, ...)
a file.npz          arrays x and y, and x_test and y_test if they are there
openml:NAME         from OpenML through scikit-learn, over the network
"""

from __future__ import annotations

import importlib
import math
import sys
import sysconfig
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from harness import idx
from harness.idx import DataError

MOST = 1 << 33  # bytes of one array in a file
MOST_CLASSES = 1 << 16  # a larger number is no class, and would make a layer as wide as that
HELD_BACK = 0.2  # of a set that comes without a test set


class Set(NamedTuple):
    """What to train and to test on: x float32 (n, ...), labels int32 (n,) from 0 to classes − 1."""

    x: np.ndarray
    labels: np.ndarray
    x_test: np.ndarray
    labels_test: np.ndarray

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1


def load(name: str) -> Set:
    """The set of that name; see the module's docstring.

    Raises:
      DataError: there is none of that name, or its files cannot be used; one sentence that says why.
    """
    found = _loaded(name)
    if found.classes < 2:
        raise DataError(f"{name}: all of its labels are 0; there is nothing to tell apart")
    return found


def _loaded(name: str) -> Set:
    kind, _, more = name.partition(":")
    if name == "xor":
        return parity(2)
    if kind == "parity":
        return parity(_bits(more))
    if name == "digits":
        return digits()
    if name == "mnist1d":
        return mnist1d()
    if kind == "openml" and more:
        return openml(more)
    if name.endswith(".npz"):
        return npz(Path(name))
    return folder(Path(name))


def _bits(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 20:
        raise DataError(f"parity:{text}: expected a number of bits from 1 to 20, such as parity:8")
    return int(text)


def parity(bits: int) -> Set:
    """All 2ⁿ inputs, of 0 and 1, to train and to test on alike. For two bits it is XOR."""
    numbers = np.arange(2**bits)
    x = (numbers[:, None] >> np.arange(bits)[::-1] & 1).astype(np.float32)
    labels = (x.sum(axis=1) % 2).astype(np.int32)
    return Set(x, labels, x, labels)


def digits() -> Set:
    """Pixels in [0, 1], (n, 8, 8, 1); a quarter of each digit is held back, the same for every seed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    x = (pixels / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    x, x_test, t, t_test = train_test_split(x, labels, test_size=0.25, stratify=labels, random_state=0)
    return Set(x, t.astype(np.int32), x_test, t_test.astype(np.int32))


def mnist1d() -> Set:
    """(n, 40), as the authors' make_dataset gives it with their arguments.

    Source: S. Greydanus, D. Kobak, "Scaling down deep learning with MNIST-1D", 2020.
    """
    package = _installed("mnist1d.data")
    made = package.make_dataset(package.get_dataset_args())
    x, x_test = (made[k].astype(np.float32) for k in ("x", "x_test"))
    return Set(x, made["y"].astype(np.int32), x_test, made["y_test"].astype(np.int32))


def _installed(name: str) -> Any:
    """A module of an installed package, though a script beside the harness have the package's name."""
    top, scripts = name.partition(".")[0], str(Path(__file__).parents[1])
    path, script = list(sys.path), sys.modules.pop(top, None)
    sys.path = [entry for entry in path if str(Path(entry or ".").resolve()) != scripts]
    try:
        return importlib.import_module(name)
    except ImportError:
        raise DataError(f"{top}: its package is not installed: pip install {top}") from None
    finally:
        sys.path = path
        for module in [m for m in sys.modules if m.partition(".")[0] == top]:
            del sys.modules[module]
        if script is not None:
            sys.modules[top] = script


def folder(path: Path) -> Set:
    """IDX images, pixels in [0, 1], (n, height, width, 1)."""
    train, test = idx.read_set(path)
    x, x_test = ((s.images[..., None] / np.float32(255)).astype(np.float32) for s in (train, test))
    return Set(x, train.labels.astype(np.int32), x_test, test.labels.astype(np.int32))


def openml(name: str) -> Set:
    """A classification set by its name; the last fifth is held back, or the last 10,000 of MNIST's 70,000."""
    from sklearn.datasets import fetch_openml

    try:
        with warnings.catch_warnings(action="ignore"):  # that it tries again
            x, y = fetch_openml(name, version=1, as_frame=False, return_X_y=True, parser="liac-arff")
    except Exception as error:  # the network's, the site's and the file's own errors
        raise DataError(f"openml:{name}: {type(error).__name__}: {error}".splitlines()[0]) from error
    labels = np.unique(y, return_inverse=True)[1]
    test = 10_000 if len(x) == 70_000 else int(HELD_BACK * len(x))
    x = x.astype(np.float32)
    x = x / max(float(np.abs(x).max()), 1e-30)
    return _checked(f"openml:{name}", x[:-test], labels[:-test], x[-test:], labels[-test:])


def npz(path: Path) -> Set:
    """Arrays x and y of an .npz file; a fifth is held back if x_test and y_test are not there.

    Raises:
      DataError: no such file, no such arrays, objects in them, sizes that do not fit.
    """
    arrays = _arrays(path)
    if missing := {"x", "y"} - arrays.keys():
        raise DataError(f"{path}: no array {' and '.join(sorted(missing))}; it has {sorted(arrays)}")
    x, y = arrays["x"], arrays["y"]
    if {"x_test", "y_test"} <= arrays.keys():
        return _checked(str(path), x, y, arrays["x_test"], arrays["y_test"])
    if half := {"x_test", "y_test"} & arrays.keys():
        raise DataError(f"{path}: {half.pop()} is there, but the other of x_test and y_test is not")
    if not x.ndim or not y.ndim or len(x) != len(y) or len(x) < 2:
        raise DataError(
            f"{path}: expected x and y of as many entries, 2 or more, but came {x.shape}, {y.shape}"
        )
    order = np.random.default_rng(0).permutation(len(x))
    test = max(1, int(HELD_BACK * len(x)))
    return _checked(str(path), x[order[test:]], y[order[test:]], x[order[:test]], y[order[:test]])


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, their headers read before any is: no objects, no more than the file holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.removesuffix(".npy") in ("x", "y", "x_test", "y_test"):
                    with archive.open(info) as file:
                        _check_header(file, path, info)
        with np.load(path, allow_pickle=False) as loaded:
            wanted = [name for name in ("x", "y", "x_test", "y_test") if name in loaded.files]
            return {name: np.asarray(loaded[name]) for name in wanted} | {
                name: np.empty(0) for name in loaded.files if name not in wanted
            }
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a whole .npz file: {error}".splitlines()[0]) from error


def _check_header(file: IO[bytes], path: Path, info: zipfile.ZipInfo) -> None:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise DataError(f"{path}: {info.filename} holds Python objects, which are not read")
    size = math.prod(shape) * dtype.itemsize
    if size > min(info.file_size, MOST):
        raise DataError(f"{path}: the header of {info.filename} promises {size} bytes of {info.file_size}")


def _checked(name: str, x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> Set:
    """The set with its dtypes, after what the arrays say of each other has been looked at."""
    for part, a, b in (("", x, y), ("_test", x_test, y_test)):
        if a.ndim < 2 or b.ndim != 1 or len(a) != len(b) or not a.size:
            raise DataError(
                f"{name}: expected x{part} (n, ...) and y{part} (n,), but came {a.shape} and {b.shape}"
            )
        if a.dtype.kind not in "fiub":
            raise DataError(f"{name}: x{part} must hold numbers, but its dtype is {a.dtype}")
        with np.errstate(over="ignore"):
            if not np.isfinite(a.astype(np.float32)).all():
                raise DataError(f"{name}: x{part} holds NaN, infinite numbers, or some that float32 does not")
        whole = b.dtype.kind in "iu" or (b.dtype.kind == "f" and bool((b == np.floor(b)).all()))
        if not whole or b.min() < 0 or b.max() >= MOST_CLASSES:
            span = f", from {b.min()} to {b.max()}" if b.dtype.kind in "fiu" else ""
            raise DataError(
                f"{name}: y{part} must hold the classes' numbers 0, 1, ... (below {MOST_CLASSES}), "
                f"but it is {b.dtype}{span}"
            )
    if x.shape[1:] != x_test.shape[1:]:
        raise DataError(f"{name}: x has entries of {x.shape[1:]}, x_test of {x_test.shape[1:]}")
    if y_test.max() > y.max():
        raise DataError(f"{name}: class {int(y_test.max())} is tested, but never trained on")
    return Set(x.astype(np.float32), y.astype(np.int32), x_test.astype(np.float32), y_test.astype(np.int32))


# ---------------------------------------------------------------------- text


def text(path: Path | None) -> bytes:
    """A text's bytes: a file's, or by default the modules of Python's standard library, one after the other.

    Raises:
      DataError: the file is not there, is empty, or is no UTF-8 text.
    """
    if path is None:
        home = Path(sysconfig.get_path("stdlib"))
        return b"".join(module.read_bytes() for module in sorted(home.glob("*.py")))
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: not a file")
        found = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if not found:
        raise DataError(f"{path}: it is empty")
    try:
        found.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no UTF-8 text: {error.reason} at byte {error.start}") from None
    if (zero := found.find(0)) >= 0:
        raise DataError(f"{path}: no text: a zero at byte {zero}")
    if len(set(found)) < 2:
        raise DataError(f"{path}: it is one character over and over; there is nothing to predict")
    return found


# ---------------------------------------------------------------------- batches


@dataclass
class Batches:
    """Mini-batches without end: each pass in an order of its own, that seed and pass alone decide.

    The place is two numbers. A run that is resumed from them gets exactly the batches that it would
    have got. What a pass leaves over for less than a batch is left for other passes.

    Args:
      examples: how many there are.
      size: of a batch; at most examples.
      seed: of the orders.
      pass_, batch: the place: which pass, and how many of its batches were taken.
    """

    examples: int
    size: int
    seed: int
    pass_: int = 0
    batch: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.examples:
            raise DataError(f"a batch of {self.size} cannot be taken from {self.examples} examples")

    @property
    def in_a_pass(self) -> int:
        return self.examples // self.size

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields the indices of each batch; the place has moved on when one is yielded."""
        while True:
            order = np.random.Generator(np.random.Philox([self.seed, self.pass_])).permutation(self.examples)
            for number in range(self.batch, self.in_a_pass):
                self.batch = number + 1
                yield order[number * self.size : (number + 1) * self.size]
            self.pass_, self.batch = self.pass_ + 1, 0

    def place(self) -> dict[str, int]:
        """What to save, for `resumed`."""
        return {"pass": self.pass_, "batch": self.batch}

    def resumed(self, place: Mapping[str, Any]) -> Batches:
        return Batches(self.examples, self.size, self.seed, int(place["pass"]), int(place["batch"]))
