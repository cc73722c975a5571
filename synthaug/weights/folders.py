"""A folder of weights that appears at once: whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from synthaug import commit
from synthaug.errors import RunError


@contextlib.contextmanager
def written_aside(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields an empty folder beside `target` that gets its name at the end, if nothing failed.

    Raises:
        RunError: the target is taken, or the disk refuses.
    """
    try:
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise RunError(f"{target}: exists and is not empty; choose another name, or delete it.")
        aside = commit.temporary(target)
        aside.mkdir()
    except OSError as error:
        raise commit.write_error(target, error) from None
    with removed(aside):
        yield aside
        try:
            os.rename(aside, target)  # an empty folder gives way
        except OSError as error:
            raise commit.write_error(target, error) from None


@contextlib.contextmanager
def removed(folder: pathlib.Path) -> Iterator[None]:
    """Removes a folder at the end, whatever happened."""
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
