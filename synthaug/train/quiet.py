"""Keeps off the terminal what libraries print there; our error says in one line what matters."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any


def silence_orbax() -> None:
    """Drops orbax's log records, which hold pages of tracebacks from its threads. Idempotent.

    A filter and not a level, because absl's logger belongs to grain and tensorflow as well.
    """
    for logger in ("absl", "asyncio"):
        logging.getLogger(logger).addFilter(_is_not_from_orbax)
    if getattr(sys.unraisablehook, "func", None) is not _report:
        sys.unraisablehook = functools.partial(_report, sys.unraisablehook)


@contextlib.contextmanager
def hold_back_stderr() -> Iterator[None]:
    """Drops what C++ code writes to stderr while the block runs; if the block fails, it is written after all.

    tensorflow says on every start that there is no GPU, before it looks at any setting that would silence it.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname and "orbax" not in record.getMessage()


def _report(report: Callable[[Any], Any], unraisable: Any) -> None:
    # When one of several writes fails, orbax closes its event loop under the others, and tensorstore's
    # threads cannot report to it any more.
    if str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)
