"""What holds for every script in experiments/: its flags, its files, both ways to train."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

import harness

pytestmark = pytest.mark.once

FOLDER = Path(harness.__file__).parents[1]
SCRIPTS = sorted(p.stem for p in FOLDER.glob("*.py") if "def main(" in p.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_tells_of_the_flags(name, capsys):
    script = importlib.import_module(name)
    with pytest.raises(SystemExit) as end:
        script.main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert script.__doc__.splitlines()[0] in out
    for flag in ("--steps", "--seed", "--out", "--autodiff"):
        assert flag in out


# These are run at a reduced size in test_curves.py.
LONG = ("mnist1d", "fashion_mnist", "char_lm")


@pytest.mark.parametrize("autodiff", [False, True], ids=["rules", "autodiff"])
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in LONG])
def test_a_short_run_writes_its_files(name, autodiff, tmp_path, read_metrics, capsys):
    flags = ["--autodiff"] if autodiff else []
    status = importlib.import_module(name).main(
        ["--steps", "2", "--seed", "1", "--out", str(tmp_path), *flags]
    )
    # Two steps do not teach anybody XOR; all others say 0.
    assert status == (1 if name in ("xor", "parity") else 0)
    assert {"settings.json", "metrics.jsonl", f"{name}.png"} <= {path.name for path in tmp_path.iterdir()}
    settings = json.loads((tmp_path / "settings.json").read_text(encoding="utf-8"))
    assert (settings["name"], settings["steps"], settings["seed"]) == (name, 2, 1)
    assert settings["autodiff"] is autodiff
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(len(lines)))
    assert len(lines) >= 2
    assert all(isinstance(line["loss"], float) for line in lines)
    picture = (tmp_path / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith(f"{name}: ")
    assert err == ""


@pytest.mark.parametrize("name", SCRIPTS)
def test_bad_steps_are_refused(name, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).main(["--steps", "-5", "--out", str(tmp_path / "new")])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "new").exists()
