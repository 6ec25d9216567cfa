"""The function that a FUNCTION names: package.module:function or ./file.py:function."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from overbar.cli.output import Refused, near, raised


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Modules in the folder can be imported, first of all; sys.path is left as it was."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def module_of(target: str) -> ModuleType:
    """The module that a FUNCTION names before its colon."""
    name, colon, path = target.rpartition(":")
    if not (name and colon and path):
        raise Refused(f"{target!r} names no function; write package.module:function or ./file.py:function")
    try:
        if name.endswith(".py"):
            return _of_file(name)
        return importlib.import_module(name)
    except Refused:
        raise
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            where = "in the current folder or among the installed packages"
            raise Refused(f"there is no module {error.name} {where}") from error
        raise Refused(f"importing {name} raises {raised(error)}") from error
    except (Exception, SystemExit) as error:
        raise Refused(f"importing {name} raises {raised(error)}") from error


def _of_file(name: str) -> ModuleType:
    """The module in a file, imported once; one in a package is imported as such."""
    file = Path(name).resolve()
    if not file.is_file():
        raise Refused(f"there is no file {name}")
    for known in list(sys.modules.values()):
        if isinstance(known, ModuleType) and vars(known).get("__file__") == str(file):
            return known
    folder, parts = file.parent, [file.stem]
    while (folder / "__init__.py").exists():
        folder, parts = folder.parent, [folder.name, *parts]
    sys.path.insert(0, str(folder))
    if len(parts) > 1:
        return importlib.import_module(".".join(parts))
    free = file.stem if file.stem not in sys.modules else f"{file.stem} of {folder}"
    spec = importlib.util.spec_from_file_location(free, file)
    assert spec is not None  # it ends in .py
    assert spec.loader is not None
    module = sys.modules[free] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[free]
        raise
    return module


def function(target: str, beside: ModuleType) -> Callable[..., Any]:
    """The function that is named; without a colon, one in the module beside it."""
    value: Any = beside if ":" not in target else module_of(target)
    for name in target.rpartition(":")[2].split("."):
        try:
            value = getattr(value, name)
        except Exception as error:
            owner = value.__name__ if isinstance(value, ModuleType) else type(value).__name__
            raise Refused(f"{owner} has no {name}{near(name, dir(value))}") from error
    if not callable(value):
        raise Refused(f"{target} is no function, but of type {type(value).__name__}")
    return value
