"""A checkpoint comes back bit for bit; one that is corrupt or another's is named and passed over."""

from __future__ import annotations

import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.checkpoints import Checkpoints
from harness.devices import Lost

# A restore that fails leaves TensorStore's tasks behind, which complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OWNER = {"experiment": "test", "hidden": 4}


def state(step):
    key = jax.random.key(step)
    return {
        "w": jax.random.normal(key, (64, 4)),
        "b": jnp.full(4, step, jnp.bfloat16),
        "step": jnp.int32(step),
    }


@pytest.fixture
def said():
    return []


@pytest.fixture
def filled(tmp_path):
    with Checkpoints(tmp_path / "c", OWNER, keep=2) as checkpoints:
        for step, loss in ((10, 3.0), (20, 1.0), (30, 2.0), (40, 2.5)):
            checkpoints.save(step, state(step), {"pass": step}, loss)
    return tmp_path / "c"


def restored(folder, said, owner=OWNER, like=None):
    with Checkpoints(folder, owner, tell=said.append) as checkpoints:
        return checkpoints.restore(state(0) if like is None else like)


def test_the_last_two_and_the_best_are_kept(filled):
    with Checkpoints(filled, OWNER) as checkpoints:
        assert checkpoints.steps == [20, 30, 40]


def test_it_comes_back_bit_for_bit(filled, said):
    found = restored(filled, said)
    assert (found.step, found.place, said) == (40, {"pass": 40}, [])
    for name, leaf in state(40).items():
        assert found.state[name].dtype == leaf.dtype
        np.testing.assert_array_equal(found.state[name], leaf)


def test_an_empty_folder_has_none(tmp_path, said):
    assert restored(tmp_path / "new", said) is None
    assert said == []


def data_files(checkpoint):
    return [p for p in checkpoint.rglob("*") if p.is_file() and "/d/" in str(p)]


@pytest.mark.parametrize("damage", ["flipped", "truncated", "removed", "emptied"])
def test_a_corrupt_one_is_named_and_the_one_before_is_taken(filled, said, damage):
    for path in data_files(filled / "40"):
        content = bytearray(path.read_bytes())
        if damage == "flipped":
            content[len(content) // 2] ^= 0x10
            path.write_bytes(content)
        elif damage == "truncated":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "emptied":
            path.write_bytes(b"")
        else:
            path.unlink()
    found = restored(filled, said)
    assert found.step == 30
    np.testing.assert_array_equal(found.state["w"], state(30)["w"])
    (sentence,) = said
    assert f"{filled / '40'} is not used" in sentence


@pytest.mark.parametrize("content", ["[]", '{"metrics": 3}'])
def test_one_that_says_nonsense_of_itself_is_named(filled, said, content):
    (filled / "30" / "_CHECKPOINT_METADATA").write_text(content)
    assert restored(filled, said).step == 40
    (told,) = said
    assert "30 is not used: it cannot be read" in told
    with Checkpoints(filled, OWNER) as checkpoints:
        assert checkpoints.steps == [20, 40]


def test_what_a_kill_leaves_is_passed_over(filled, said):
    shutil.copytree(filled / "40", filled / "50.orbax-checkpoint-tmp-1")
    assert restored(filled, said).step == 40


def test_another_runs_is_named(filled, said):
    assert restored(filled, said, owner=OWNER | {"hidden": 8}) is None
    assert len(said) == 3
    assert "it is another run's: hidden 4, here 8" in said[0]


@pytest.mark.parametrize(
    "content", ["[]", '{"place": null}', None], ids=["a list", "no place", "another place"]
)
def test_a_place_that_was_changed_is_named(filled, said, content):
    path = filled / "40/about/metadata"
    path.write_text(content or path.read_text().replace('"pass": 40', '"pass": 41'))
    assert restored(filled, said).step == 30
    assert ("its checksums do not fit" if content is None else "no run of an experiment wrote it") in said[0]


def test_another_state_is_named(filled, said):
    assert restored(filled, said, like={"v": jnp.zeros(3)}) is None
    assert len(said) == 3


def test_a_full_disk_is_said_and_the_last_one_stays(tmp_path, said):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        with Checkpoints(small / "c", OWNER) as checkpoints:
            checkpoints.save(1, state(1), {}, 1.0)
            large = state(2) | {"w": jax.random.normal(jax.random.key(2), (400, 400))}
            with pytest.raises(OSError, match=r"checkpoint 2|No space left"):
                checkpoints.save(2, large, {}, 0.5)
        found = restored(small / "c", said)
        assert found.step == 1
        np.testing.assert_array_equal(found.state["w"], state(1)["w"])
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_another_process_s_death_says_nothing_against_a_checkpoint(filled, said, monkeypatch):
    def die(*_, **__):
        raise ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer\nand much more")

    with Checkpoints(filled, OWNER, tell=said.append) as checkpoints:
        monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
        for name, call in {
            "restore": lambda: checkpoints.restore(state(0)),
            "save": lambda: checkpoints.save(50, state(50), {}, 1.0),
        }.items():
            monkeypatch.setattr(checkpoints._manager, name, die)
            with pytest.raises(Lost, match=r"^UNKNOWN: Gloo AllGather failed: Connection reset by peer$"):
                call()
        assert (checkpoints.steps, said) == ([20, 30, 40], [])
