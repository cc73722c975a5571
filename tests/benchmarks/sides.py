"""A process that measures what it is asked for, so that two libraries never share one and can take turns."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent.parent


class Side:
    """One of the processes: it answers a line with a line of JSON."""

    def __init__(self, module: str, *words: str, quiet: bool = False) -> None:
        """Starts `python -m module --serve ...`; `quiet` drops what its libraries say."""
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, "--serve", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            text=True,
        )

    def measure(self, what: str) -> dict[str, Any]:
        """Returns what one run of it took."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
