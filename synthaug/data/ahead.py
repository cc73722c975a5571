"""Work done by threads a little ahead of whoever takes its results, which come in order."""

from __future__ import annotations

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, workers: int = 0, ahead: int = 0
) -> Iterator[Result]:
    """Yields the result of every item in order; decoders, filters and zlib let go of the interpreter.

    An error is raised when its item's turn comes. Items beyond those under way are not taken from `items`,
    so that memory does not grow with their number.

    Args:
        work: called in any thread.
        items: taken one by one by the caller's thread.
        workers: threads; 0 = one per core of the process.
        ahead: items that are under way or wait to be taken; 0 = 3 per thread.
    """
    workers = workers or len(os.sched_getaffinity(0))
    ahead = max(ahead or 3 * workers, 1)
    with concurrent.futures.ThreadPoolExecutor(min(workers, ahead)) as pool:
        waiting = collections.deque[concurrent.futures.Future[Result]]()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
