"""What was noticed of the images of a set as they were read: how they are coded, what was done to them."""

from __future__ import annotations

import numpy as np

from synthaug.data import images

CODECS = ("not looked at", "none", *sorted(name.lower() for name in images.FORMATS), "raw")

GREY, ALPHA, RESIZED, ENLARGED, STRETCHED = (1 << bit for bit in range(5))
"""Flags of an image: repeated to 3 channels; opaque alpha dropped; its size changed; grown; out of shape."""


class Seen:
    """Two bytes for each of N images: its codec, and flags. Threads may note different images at once."""

    def __init__(self, count: int) -> None:
        self._notes = np.zeros((2, count), np.uint8)

    def note_codec(self, index: int, data: bytes | np.ndarray | None) -> None:
        """Notes how image `index` is coded, by its first bytes; None: it cannot be read."""
        codec = "none" if data is None else "raw"
        if isinstance(data, bytes):
            codec = images.format_of(data).lower() or "none"
        self._notes[0, index] = CODECS.index(codec)

    def note(self, index: int, flags: int) -> None:
        """Notes all flags of image `index`, in place of those before."""
        self._notes[1, index] = flags

    def add(self, index: int, flags: int) -> None:
        """Notes further flags of image `index`."""
        self._notes[1, index] |= flags

    def not_looked_at(self, numbers: np.ndarray) -> np.ndarray:
        """Returns those of the numbers i64[n] whose images have no codec yet."""
        return numbers[self._notes[0, numbers] == 0]

    def codec(self, numbers: np.ndarray) -> str:
        """Returns the shares of codecs among the images i64[n] looked at, e.g. "png 90 %, jpeg 10 %"."""
        counts = np.bincount(self._notes[0, numbers], minlength=len(CODECS)).tolist()
        return images.shares(dict(zip(CODECS[2:], counts[2:], strict=True)))

    def count(self, flag: int, numbers: np.ndarray) -> int:
        """Returns how many of the images i64[n] have a flag."""
        return int(np.count_nonzero(self._notes[1, numbers] & flag))

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """Returns what was noticed of the images i64[n], u8[2,n], for `recall`."""
        return self._notes[:, numbers]

    def recall(self, numbers: np.ndarray, found: np.ndarray) -> None:
        """Notes again what an earlier process noticed of the images i64[n].

        Raises:
            ValueError: it is of another number of images.
        """
        if found.shape != (2, len(numbers)) or found.dtype != np.uint8:
            raise ValueError(f"what was noticed is {found.dtype}{list(found.shape)}")
        self._notes[:, numbers] = found
