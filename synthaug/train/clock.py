"""Where the wall time of a job went. Knows no jax, so that any stage may use it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

OTHER = "other"


class Clock:
    """Seconds by bucket: "setup", "restore", "compile", "step", "data", "evaluate", "save" and so on.

    Every moment belongs to exactly one bucket: the innermost `measure` around it, else "other". So the
    buckets sum to the wall time since the clock was made. One clock serves one thread.

    Example:
        >>> now = iter([0.0, 1.0, 5.0, 7.0])
        >>> clock = Clock(lambda: next(now))
        >>> with clock.measure("step"):
        ...     pass
        >>> clock.buckets()
        {'other': 3.0, 'step': 4.0}
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._mark = now()
        self._open = [OTHER]
        self._seconds: dict[str, float] = {OTHER: 0.0}

    @contextlib.contextmanager
    def measure(self, bucket: str) -> Iterator[None]:
        """Counts the time of the `with` block, less that of blocks inside it, into `bucket`."""
        self._settle()
        self._open.append(bucket)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def buckets(self) -> dict[str, float]:
        """Returns the seconds spent so far, by bucket; they sum to the wall time."""
        self._settle()
        return dict(self._seconds)

    def _settle(self) -> None:
        now = self._now()
        bucket = self._open[-1]
        self._seconds[bucket] = self._seconds.setdefault(bucket, 0.0) + now - self._mark
        self._mark = now
