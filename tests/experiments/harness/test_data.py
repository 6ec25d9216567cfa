"""Sets are read whole or refused in one sentence, and batches go on exactly where they were left."""

from __future__ import annotations

import gzip
import io
import itertools
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from harness import data, idx
from harness.data import DataError


def idx_bytes(array, kind=0x08, promised=None):
    shape = promised or array.shape
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *shape) + array.tobytes()


@pytest.fixture
def images():
    return np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def write_set(folder, images, labels, zipped=False, test=None):
    for part, (i, t) in {"train": (images, labels), "t10k": test or (images, labels)}.items():
        for name, array in ((f"{part}-images-idx3-ubyte", i), (f"{part}-labels-idx1-ubyte", t)):
            content = idx_bytes(array)
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)


class TestIdx:
    @pytest.mark.parametrize("zipped", [False, True])
    def test_a_set_is_read(self, tmp_path, images, zipped):
        write_set(tmp_path, images, np.array([1, 0], np.uint8), zipped)
        made = data.load(str(tmp_path))
        np.testing.assert_array_equal(made.x, images[..., None] / np.float32(255))
        assert made.x.dtype == np.float32
        assert made.labels.tolist() == [1, 0]
        assert made.classes == 2

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "not an IDX file"),
            (b"\x89PNG....", "not an IDX file"),
            (idx_bytes(np.zeros((2, 3, 4), np.uint8), kind=0x0D), "its type is 0x0d"),
            (idx_bytes(np.zeros(5, np.uint8)), r"it has 1 \(labels for images\?\)"),
            (idx_bytes(np.zeros((2, 3, 4), np.uint8))[:10], "truncated in its header"),
            (idx_bytes(np.zeros((2, 3, 4), np.uint8))[:-1], "promises 24 entries, but there are only 23"),
            (idx_bytes(np.zeros((2, 3, 4), np.uint8)) + b"x", "but there are more"),
            (idx_bytes(np.zeros((0, 3, 4), np.uint8)), "it is empty"),
            (idx_bytes(np.zeros((1, 1, 1), np.uint8), promised=(2**32 - 1,) * 3), "its header promises"),
        ],
    )
    @pytest.mark.parametrize("zipped", [False, True])
    def test_what_is_no_image_file_is_refused(self, tmp_path, content, said, zipped):
        path = tmp_path / "train-images-idx3-ubyte"
        path.write_bytes(gzip.compress(content) if zipped else content)
        with pytest.raises(DataError, match=said) as error:
            idx.read(path, 3)
        assert str(path) in str(error.value)

    def test_a_truncated_gzip_file_is_refused(self, tmp_path, images):
        path = tmp_path / "file"
        path.write_bytes(gzip.compress(idx_bytes(images))[:-12])
        with pytest.raises(DataError, match="not a whole gzip file"):
            idx.read(path, 3)

    def test_a_bomb_and_an_empty_promise_take_no_memory(self, tmp_path):
        bomb, promise = tmp_path / "bomb", tmp_path / "promise"
        header = idx_bytes(np.zeros((1, 1, 1), np.uint8))[:-1]
        bomb.write_bytes(gzip.compress(header + bytes(200_000_000), 1))
        promise.write_bytes(idx_bytes(np.zeros((1, 1, 1), np.uint8), promised=(2_000, 1_000, 1_000)))
        tracemalloc.start()
        for path in (bomb, promise):
            with pytest.raises(DataError):
                idx.read(path, 3)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
        tracemalloc.stop()

    def test_files_must_fit_each_other(self, tmp_path, images):
        write_set(tmp_path, images, np.array([0, 1, 1], np.uint8))
        with pytest.raises(DataError, match="2 images, but 3 labels"):
            idx.read_set(tmp_path)
        write_set(tmp_path, images, np.array([0, 1], np.uint8), test=(images, np.array([0, 7], np.uint8)))
        with pytest.raises(DataError, match="label 7 is tested, but never trained on"):
            idx.read_set(tmp_path)
        (tmp_path / "t10k-labels-idx1-ubyte").unlink()
        with pytest.raises(DataError, match="neither t10k-labels-idx1-ubyte nor"):
            idx.read_set(tmp_path)


class TestNpz:
    def test_without_a_test_set_a_fifth_is_held_back(self, tmp_path):
        x, y = np.arange(20.0).reshape(10, 2), np.arange(10) % 3
        np.savez(tmp_path / "a.npz", x=x, y=y)
        made = data.load(str(tmp_path / "a.npz"))
        assert (len(made.x), len(made.x_test)) == (8, 2)
        both = np.concatenate([made.x, made.x_test])
        np.testing.assert_array_equal(np.sort(both, axis=0), x)
        np.testing.assert_array_equal(made.labels, (made.x[:, 0] / 2).astype(int) % 3)

    @pytest.mark.parametrize(
        ("arrays", "said"),
        [
            ({"x": np.ones((3, 2))}, "no array y"),
            ({"x": np.ones((3, 2)), "y": np.zeros(2, int)}, "of as many entries, 2 or more, but came"),
            ({"x": np.float32(1), "y": np.int32(1)}, "of as many entries, 2 or more, but came"),
            ({"x": np.ones((3, 2)), "y": np.arange(3), "x_test": np.ones((3, 2))}, "x_test is there, but"),
            ({"x": np.ones((3, 0)), "y": np.arange(3)}, "expected x"),
            ({"x": np.ones((3, 2)), "y": np.zeros(3, int)}, "all of its labels are 0"),
            ({"x": np.full((3, 2), np.nan), "y": np.zeros(3, int)}, "NaN, infinite"),
            ({"x": np.full((3, 2), 1e300), "y": np.zeros(3, int)}, "some that float32 does not"),
            ({"x": np.ones((3, 2)), "y": np.array([0, 1, 2**30])}, "below 65536"),
            ({"x": np.ones((3, 2)), "y": np.array([0.5, 1, 0])}, "the classes' numbers"),
            ({"x": np.ones((3, 2)), "y": np.array([-1, 1, 0])}, "the classes' numbers"),
            ({"x": np.array([["a"]] * 3), "y": np.zeros(3, int)}, "must hold numbers"),
            (
                {"x": np.array([[{}]] * 3, object), "y": np.zeros(3, int)},
                "Python objects, which are not read",
            ),
        ],
    )
    def test_what_cannot_be_used_is_refused(self, tmp_path, arrays, said):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(DataError, match=said):
            data.load(str(tmp_path / "a.npz"))

    def test_a_header_that_promises_too_much_is_refused(self, tmp_path):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 100)}
        )
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x.npy", header.getvalue() + bytes(80))
        with pytest.raises(DataError, match="promises 800000000000 bytes"):
            data.load(str(tmp_path / "a.npz"))

    def test_no_file_and_no_archive(self, tmp_path):
        with pytest.raises(DataError, match="no such file"):
            data.load(str(tmp_path / "a.npz"))
        (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and nothing more")
        with pytest.raises(DataError, match=r"not a whole \.npz file"):
            data.load(str(tmp_path / "a.npz"))


def test_the_sets_that_need_no_files():
    assert data.load("xor").labels.tolist() == [0, 1, 1, 0]
    parity = data.load("parity:5")
    np.testing.assert_array_equal(parity.labels, parity.x.sum(axis=1) % 2)
    digits = data.load("digits")
    assert digits.x.shape == (1347, 8, 8, 1)
    assert (digits.x.min(), digits.x.max(), digits.classes) == (0, 1, 10)
    with pytest.raises(DataError, match="a number of bits from 1 to 20"):
        data.load("parity:99")
    with pytest.raises(DataError, match="no such folder"):
        data.load("nowhere")


def test_the_text(tmp_path):
    assert b"def " in data.text(None)
    path = tmp_path / "text"
    path.write_bytes("σ".encode())
    assert data.text(path) == "σ".encode()
    bad = {
        b"": "empty",
        b"ab\xff": "no UTF-8 text: .* at byte 2",
        b"a\0": "a zero at byte 1",
        b"aa": "over and",
    }
    for content, said in bad.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=said):
            data.text(path)
    with pytest.raises(DataError, match="not a file"):
        data.text(tmp_path)


class TestBatches:
    def taken(self, batches, number):
        return [b.tolist() for b in itertools.islice(batches, number)]

    def test_a_pass_meets_each_example_at_most_once(self):
        first, second = (np.ravel(self.taken(data.Batches(11, 3, 0, pass_=p), 3)).tolist() for p in (0, 1))
        for one in (first, second):
            assert len(set(one)) == 9
        assert first != second

    @pytest.mark.parametrize("stop", [0, 1, 3, 4, 7])
    def test_it_goes_on_exactly_where_it_was_left(self, stop):
        whole = self.taken(data.Batches(11, 3, seed=5), 12)
        left = data.Batches(11, 3, seed=5)
        before = self.taken(left, stop)
        after = self.taken(data.Batches(11, 3, seed=5).resumed(left.place()), 12 - stop)
        assert before + after == whole

    def test_a_batch_larger_than_the_set_is_refused(self):
        with pytest.raises(DataError, match="a batch of 12 cannot be taken from 11 examples"):
            data.Batches(11, 12, 0)
