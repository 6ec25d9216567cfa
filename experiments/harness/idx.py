"""IDX files, the format of MNIST and its kin, gzipped or not: read whole, or refused with a reason.

A file is two zero bytes, the code of its type, the number of its axes, each axis' length as a
big-endian 32-bit number, and the entries. Everything is checked before anything is allocated: a header
may promise more than there is, and a gzip stream may hold more than its header says.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", file formats.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

BYTE = 0x08  # the code of unsigned bytes, the one type that these sets have
MOST = 1 << 31  # bytes of one file: MNIST's largest has 47 million


class DataError(ValueError):
    """A file of data that cannot be used; the message names it and says why."""


class Split(NamedTuple):
    """Images, (n, height, width) uint8, and their labels, (n,) uint8."""

    images: np.ndarray
    labels: np.ndarray


def read(path: Path, axes: int) -> np.ndarray:
    """Reads one file of unsigned bytes.

    Args:
      path: an IDX file; gzipped if it begins as gzip does, whatever its name.
      axes: how many axes it must have: 3 for images, 1 for labels.

    Returns:
      A uint8 array.

    Raises:
      DataError: the file is no IDX file, has another type or number of axes, is shorter or longer
        than its header says, or is no whole gzip stream.
      OSError: it cannot be opened.
    """
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            with gzip.GzipFile(fileobj=raw) if zipped else raw as file:
                shape = _shape(file, path, axes)
                return _entries(file, path, shape)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: not a whole gzip file: {error}") from error


def _shape(file: IO[bytes] | gzip.GzipFile, path: Path, axes: int) -> tuple[int, ...]:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0":
        raise DataError(f"{path}: not an IDX file: it begins with {head!r}")
    if head[2] != BYTE:
        raise DataError(f"{path}: expected unsigned bytes (type 0x08), but its type is 0x{head[2]:02x}")
    if head[3] != axes:
        what = {1: "labels", 3: "images"}
        known = f" ({what[head[3]]} for {what[axes]}?)" if {head[3], axes} <= what.keys() else ""
        raise DataError(f"{path}: expected {axes} axes, but it has {head[3]}{known}")
    lengths = file.read(4 * axes)
    if len(lengths) < 4 * axes:
        raise DataError(f"{path}: truncated in its header")
    shape = struct.unpack(f">{axes}I", lengths)
    if math.prod(shape) > MOST:
        raise DataError(f"{path}: its header promises {' × '.join(map(str, shape))} bytes, over {MOST}")
    if 0 in shape:
        raise DataError(f"{path}: it is empty: {' × '.join(map(str, shape))}")
    return shape


def _entries(file: IO[bytes] | gzip.GzipFile, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Reads in pieces, so that a header which promises too much costs no memory."""
    wanted, pieces, found = math.prod(shape), [], 0
    while found <= wanted and (piece := file.read(min(1 << 20, wanted + 1 - found))):
        pieces.append(piece)
        found += len(piece)
    if found != wanted:
        more = "more" if found > wanted else f"only {found}"
        raise DataError(f"{path}: its header promises {wanted} entries, but there are {more}")
    return np.frombuffer(b"".join(pieces), np.uint8).reshape(shape)


def read_set(folder: Path) -> tuple[Split, Split]:
    """The training and the test set in a folder, under MNIST's file names, with or without .gz.

    Raises:
      DataError: a file is missing, cannot be used, or does not fit the others.
    """
    train, test = (
        Split(
            read(_found(folder, f"{part}-images-idx3-ubyte"), 3),
            read(_found(folder, f"{part}-labels-idx1-ubyte"), 1),
        )
        for part in ("train", "t10k")
    )
    for part, split in (("train", train), ("t10k", test)):
        if len(split.images) != len(split.labels):
            raise DataError(
                f"{folder}: {part} has {len(split.images)} images, but {len(split.labels)} labels"
            )
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{folder}: images of {train.images.shape[1:]} to train on, of {test.images.shape[1:]} to test on"
        )
    if test.labels.max() > train.labels.max():
        raise DataError(f"{folder}: label {test.labels.max()} is tested, but never trained on")
    return train, test


def _found(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder}: neither {name} nor {name}.gz is there")
