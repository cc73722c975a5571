"""Keeps off the terminal what orbax prints about a failed write; our error says it in one line."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from typing import Any


def silence_orbax() -> None:
    """Drops orbax's log records, which hold pages of tracebacks from its threads. Idempotent.

    A filter and not a level, because absl's logger belongs to grain and tensorflow as well.
    """
    for logger in ("absl", "asyncio"):
        logging.getLogger(logger).addFilter(_is_not_from_orbax)
    if getattr(sys.unraisablehook, "func", None) is not _report:
        sys.unraisablehook = functools.partial(_report, sys.unraisablehook)


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname and "orbax" not in record.getMessage()


def _report(report: Callable[[Any], Any], unraisable: Any) -> None:
    # When one of several writes fails, orbax closes its event loop under the others, and tensorstore's
    # threads cannot report to it any more.
    if str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)
