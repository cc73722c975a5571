"""A stop that was asked for by a signal, as a flag that loops read at their step boundaries."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

# TERM: preemption, scancel and JAX's own service. USR1, USR2: `sbatch --signal` and submitit. INT: Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
LAST_INTERRUPT = 3


class StopFlag:
    """Remembers the first signal that asked for a stop.

    The handler sets a flag and does nothing else: saving, printing or locking inside a handler can
    deadlock with the code it interrupted. Signals after the first change nothing, except that the third
    Ctrl-C raises KeyboardInterrupt for a person who does not want to wait for the save.

    Example:
        >>> stop = StopFlag()
        >>> stop.requested()
        >>> stop.request("SIGTERM")
        >>> stop.requested()
        'SIGTERM'
    """

    def __init__(self) -> None:
        self._name: str | None = None
        self._interrupts = 0
        self._old: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def install(self) -> None:
        """Takes over SIGTERM, SIGINT, SIGUSR1 and SIGUSR2; only the main thread may call it."""
        for number in SIGNALS:
            old = signal.signal(number, self._handle)
            self._old.setdefault(number, old)

    def restore(self) -> None:
        """Gives the signals back to whoever had them before `install`."""
        for number, old in self._old.items():
            # None: the old handler was not set from Python, and cannot be put back by it
            signal.signal(number, signal.SIG_DFL if old is None else old)
        self._old.clear()

    def requested(self) -> str | None:
        """Returns the name of the first signal that asked for a stop, or None."""
        return self._name

    def request(self, name: str) -> None:
        """Asks for a stop from inside the program; `name` stands in messages."""
        if self._name is None:
            self._name = name

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.request(signal.Signals(number).name)
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts >= LAST_INTERRUPT:
                raise KeyboardInterrupt
