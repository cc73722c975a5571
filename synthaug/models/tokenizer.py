"""T5's sentencepiece tokenizer, and what DeepFloyd IF did to a caption before it."""

from __future__ import annotations

import html
import html.entities
import html.parser
import pathlib
import re
import urllib.parse
from collections.abc import Sequence

import ftfy
import numpy as np
import sentencepiece

from synthaug.errors import DataError

PAD, END = 0, 1
FILE = "spiece.model"


class Tokenizer:
    """T5's tokens of a text: sentencepiece's, the end token, padding."""

    def __init__(self, file: pathlib.Path) -> None:
        self.file = file
        try:
            self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(file))
        except (RuntimeError, OSError):
            raise DataError(f"{file}: is no sentencepiece model; download the spiece.model of T5.") from None
        found = (self.pieces.pad_id(), self.pieces.eos_id())
        if found != (PAD, END):
            raise DataError(
                f"{file}: padding and end are tokens {found[0]} and {found[1]}; expected {PAD} and {END}: "
                "take the spiece.model of T5."
            )

    @property
    def vocab_size(self) -> int:
        """Number of tokens; the encoder's table may be longer, never shorter."""
        return self.pieces.vocab_size()

    def encode(self, prompts: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Returns the tokens i32[N,L] of N texts, their mask bool[N,L], and each text's number of tokens.

        A text of more than L = `max_length` tokens (the end token among them) is cut and still ends with the
        end token: the caller compares the number with L and says so.
        """
        if max_length < 1:
            raise ValueError(f"Tokenizer.encode: max_length = {max_length}; expected at least 1.")
        ids = np.full((len(prompts), max_length), PAD, np.int32)
        lengths = []
        for row, prompt in zip(ids, prompts, strict=True):
            tokens = self.pieces.encode(prompt, out_type=int)
            kept = [*tokens[: max_length - 1], END]
            row[: len(kept)] = kept
            lengths.append(len(tokens) + 1)
        mask = np.arange(max_length)[None, :] < np.array(lengths, np.int32)[:, None]
        return ids, mask, lengths


def find_tokenizer(folder: pathlib.Path) -> pathlib.Path:
    """Returns the spiece.model of an encoder's folder: in it, in its tokenizer/, or in one beside it.

    Raises:
        DataError: there is none.
    """
    places = (folder, folder / "tokenizer", folder.parent / "tokenizer")
    for place in places:
        if (place / FILE).is_file():
            return place / FILE
    raise DataError(
        f"{folder}: has no {FILE}; expected it there, in {places[1]} or in {places[2]}: download it."
    )


def prepare_prompt(prompt: str, clean: bool) -> str:
    """Returns the text that is encoded: cleaned as DeepFloyd IF did, or only lower-cased and trimmed.

    IF cleans twice, because what one pass leaves may be an address or a number for the next one.

    Example:
        >>> prepare_prompt("Kite (bird of prey)", clean=True)
        'kite bird of prey'
        >>> prepare_prompt(" T-shirt ", clean=False)
        't-shirt'
    """
    return clean_caption(clean_caption(prompt)) if clean else prompt.lower().strip()


# What IF's authors took out of captions from the web, in their order; each pattern means what theirs means.
_ADDRESS = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
_DASHES = (
    "\\-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    "\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
)
_ENDINGS = "(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"
_MARKUP = (
    ("<person>", "person"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{_ADDRESS})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-zA-Z0-9%])|{_ADDRESS})", ""),
)
_SIGNS = (
    (r"@\w+\b", ""),  # nicknames
    ("[\u31c0-\u9fff]+", ""),  # Chinese characters, strokes and enclosed letters
    (f"[{_DASHES}]+", "-"),
    ("[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
    ("[\u2018\u2019]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # IP addresses
    (r"\d:\d\d\s+$", ""),  # numbers of articles
    (r"\\n", " "),  # a line break that was written out
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.{_ENDINGS}", ""),  # file names
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (
        "[#\u00ae\u2022\u00a9\u2122&@\u00b7\u00ba\u00bd\u00be\u00bf\u00a1\u00a7~)(\\][}{|\\\\/*]+",
        " ",
    ),
    (r"\s+\.\s+", " "),
)
_WORDS = (
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),  # codes: ab123, a1b, 1a2
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b{_ENDINGS}(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    ("\\b\\d+\\.?\\d*[x\u0445\u00d7]\\d+\\.?\\d*\\b", ""),  # sizes: 3x4, also with a Cyrillic x
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    # The text is not trimmed here: behind a leading space, the next patterns find no beginning.
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


def clean_caption(caption: str) -> str:
    """Returns one pass of DeepFloyd IF's clean-up of a caption.

    Example:
        >>> clean_caption("Carved pumpkin / <b>jack-o'-lantern</b>, 1200x800.jpg www.example.com")
        "carved pumpkin jack-o'-lantern,"
    """
    caption = urllib.parse.unquote_plus(caption).strip().lower()
    caption = _without_tags(_replace(_MARKUP, caption))
    caption = _replace(_SIGNS, caption)
    if len(re.findall("[-_]", caption)) > 3:  # this-is-a-file-name
        caption = re.sub("[-_]", " ", caption)
    caption = html.unescape(html.unescape(ftfy.fix_text(caption)))
    return _replace(_WORDS, caption).strip()


def _replace(table: Sequence[tuple[str, str]], text: str) -> str:
    for pattern, replacement in table:
        text = re.sub(pattern, replacement, text)
    return text


def _without_tags(text: str) -> str:
    """Returns the text of HTML, as Beautiful Soup reads it with the same parser of the standard library."""
    parser = _TextOfHtml()
    try:
        parser.feed(text)
        parser.close()
    except AssertionError:  # the parser's word for a broken declaration; then there is no HTML to remove
        return text
    parser.flush()
    return "".join(parser.found)


class _TextOfHtml(html.parser.HTMLParser):
    """Collects what stands between tags, without the content of scripts, styles, templates and ruby."""

    # Elements that never have an end tag, and those whose text is no text of the page.
    EMPTY = frozenset(
        {
            "area",
            "base",
            "basefont",
            "bgsound",
            "br",
            "col",
            "command",
            "embed",
            "frame",
            "hr",
            "image",
            "img",
        }
        | {"input", "isindex", "keygen", "link", "menuitem", "meta", "nextid", "param", "source", "spacer"}
        | {"track", "wbr"}
    )
    HIDDEN = frozenset({"rt", "rp", "script", "style", "template"})
    VERBATIM = frozenset({"pre", "textarea"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[str] = []
        self.parts: list[str] = []
        self.open: list[str] = []
        self.closed: list[str] = []

    def flush(self) -> None:
        """Ends a run of text."""
        if self.parts and not self.HIDDEN.intersection(self.open):
            self._keep("".join(self.parts))
        self.parts = []

    def _keep(self, text: str) -> None:
        """Adds a run of text to what was found; white space alone counts as one space or line break."""
        if not text.strip(" \n\t\f\r") and not self.VERBATIM.intersection(self.open):
            text = "\n" if "\n" in text else " "
        self.found.append(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens an element."""
        self.flush()
        if tag in self.EMPTY:
            self.closed.append(tag)
        else:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opens and closes an element."""
        self.flush()

    def handle_endtag(self, tag: str) -> None:
        """Closes the last open element of this name and all inside it; none, if there is none."""
        if tag in self.closed:
            self.closed.remove(tag)
            return
        self.flush()
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        """Adds text."""
        self.parts.append(data)

    def handle_charref(self, name: str) -> None:
        """Adds the character of a number; what follows the digits is text."""
        digits = re.match(r"x([0-9a-f]+)|([0-9]+)", name, re.IGNORECASE)
        if digits is None:
            self.parts.append(name.lstrip("xX"))
            return
        number = int(digits[1], 16) if digits[1] else int(digits[2])
        # html.unescape drops a few control characters that Beautiful Soup keeps.
        self.parts.append((html.unescape(f"&#{number};") or chr(number)) + name[digits.end() :])

    def handle_entityref(self, name: str) -> None:
        """Adds the character of a name; an unknown name stays as it was."""
        known = html.entities.html5
        self.parts.append(known.get(name) or known.get(f"{name};") or f"&{name}")

    def handle_comment(self, data: str) -> None:
        """Ends a run of text."""
        self.flush()

    def handle_decl(self, decl: str) -> None:
        """Ends a run of text."""
        self.flush()

    def handle_pi(self, data: str) -> None:
        """Ends a run of text."""
        self.flush()

    def unknown_decl(self, data: str) -> None:
        """Adds the text of a CDATA section, as a run of its own, even where other text is hidden."""
        self.flush()
        if data.upper().startswith("CDATA["):
            self._keep(data[len("CDATA[") :])
