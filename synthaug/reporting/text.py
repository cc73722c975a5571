"""Text that comes from data, made safe for drawings, pages and files."""

from __future__ import annotations


def plain(text: str) -> str:
    r"""Returns the text without control characters, and with "?" for what UTF-8 cannot hold.

    Example:
        >>> plain("a\x00b\ud800")
        'ab?'
    """
    kept = "".join(c for c in text if c in "\n\t" or (ord(c) >= 32 and not 127 <= ord(c) < 160))
    return kept.encode("utf-8", "replace").decode("utf-8")


def slug(text: str) -> str:
    """Returns a name for ids and files.

    Example:
        >>> slug("64 <px>")
        '64--px-'
    """
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)


def label(text: str, most: int = 22) -> str:
    """Returns the text on one line of at most `most` characters, for a drawing."""
    line = " ".join(plain(text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
