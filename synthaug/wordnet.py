"""Class names by WNID (or any other class key), from the files that users of ImageNet have.

| file | what it is | name of a class |
|---|---|---|
| `LOC_synset_mapping.txt` | Kaggle: `n01440764 tench, Tinca tinca` | the first lemma, "tench" |
| `synset_words.txt`, `words.txt` | Caffe's and WordNet's: the same, with a blank or a tab | the first lemma |
| `meta.mat` | the devkits': WNID and words of 1000 leaves and 860 inner nodes | the first lemma |
| `map_clsloc.txt` | the devkit's: `n02119789 1 kit_fox` | with blanks for underscores |
| any with the head `wnid,prompt` | CSV (RFC 4180) in UTF-8 of any class keys | each row, a prompt |
"""

from __future__ import annotations

import csv
import dataclasses
import io
import pathlib
import re
import unicodedata

from synthaug.errors import ConfigError
from synthaug.matlab import read_mat

EXPECTED = (
    "LOC_synset_mapping.txt, synset_words.txt, map_clsloc.txt, the devkit's meta.mat, or a CSV with "
    "wnid,prompt in its first line"
)
_WNID = r"n\d{8}"
_NUMBERED = re.compile(rf"({_WNID})\s+\d+\s+(\S+)")  # map_clsloc.txt
_LEMMAS = re.compile(rf"({_WNID})(?:[ \t]+(.*))?")


@dataclasses.dataclass(frozen=True)
class Names:
    """The names of classes in a file, in its order."""

    names: dict[str, tuple[str, ...]]  # class key -> its names, several in a CSV alone
    others: dict[
        str, tuple[str, ...]
    ]  # class key -> further lemmas: not used, but good for telling two apart
    leaves: frozenset[str]  # keys that ImageNet-1k can have: all but the inner nodes of meta.mat


def read_names(path: pathlib.Path) -> Names:
    """Returns the names in one of the files above; which of them it is shows in its content.

    Raises:
        ConfigError: the file is missing, is none of them, or a line of it is damaged.

    Example:
        >>> import tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "mapping.txt"
        >>> _ = file.write_text("n01440764 tench, Tinca tinca")
        >>> read_names(file).names
        {'n01440764': ('tench',)}
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected {EXPECTED}.") from None
    if data.startswith(b"MATLAB 7.3"):
        raise ConfigError(
            f"{path}: is a MATLAB 7.3 file; expected version 5, as in the devkit: save it with -v7."
        )
    if data.startswith(b"MATLAB"):
        return _from_devkit(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path} line {line}: is not UTF-8; save the file as UTF-8.") from None
    head = text.lstrip("\r\n").partition("\n")[0].casefold()
    if "wnid" in head and "prompt" in head:
        return _from_csv(path, text)
    return _from_lines(path, text)


def _from_devkit(path: pathlib.Path) -> Names:
    """Returns the names in a meta.mat: leaves come first, and their ILSVRC2012_ID is at most 1000."""
    synsets = read_mat(path).get("synsets")
    try:
        synsets = sorted(synsets or (), key=lambda s: float(s["ILSVRC2012_ID"][0]))
        rows = [(str(s["WNID"]), str(s["words"]), int(s["num_children"][0]) == 0) for s in synsets]
    except (KeyError, IndexError, TypeError, ValueError):
        rows = []
    if not rows:
        raise ConfigError(
            f"{path}: no table synsets with ILSVRC2012_ID, WNID, words, num_children; expected {EXPECTED}."
        )
    return _first_lemmas([(key, words) for key, words, _ in rows], {key for key, _, leaf in rows if leaf})


def _from_lines(path: pathlib.Path, text: str) -> Names:
    rows: dict[str, str] = {}
    first: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        numbered = _NUMBERED.fullmatch(line.strip())
        match = numbered or _LEMMAS.fullmatch(line.strip())
        if match is None:
            raise ConfigError(
                f"{path} line {number}: {line.strip()[:60]!r} does not begin with a WNID such as n01440764; "
                f"expected {EXPECTED}."
            )
        key, words = match.group(1), match.group(2) or ""
        if key in first:
            raise ConfigError(f"{path} line {number}: {key} stands in line {first[key]}, too; remove one.")
        first[key] = number
        rows[key] = words.replace("_", " ") if numbered else words
    if not rows:
        raise ConfigError(f"{path}: is empty; expected {EXPECTED}.")
    return _first_lemmas(list(rows.items()), set(rows))


def _first_lemmas(rows: list[tuple[str, str]], leaves: set[str]) -> Names:
    lemmas = {key: tuple(lemma.strip() for lemma in words.split(",")) for key, words in rows}
    others = {key: tuple(filter(None, found[1:])) for key, found in lemmas.items()}
    return Names({key: found[:1] for key, found in lemmas.items()}, others, frozenset(leaves))


def _from_csv(path: pathlib.Path, text: str) -> Names:
    # newline="" leaves line breaks inside quotes as they are
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: dict[str, list[str]] = {}
    columns: list[str] = []
    try:
        for row in reader:
            if not any(row):
                continue
            if not columns:
                columns = [cell.strip().casefold() for cell in row]
                if sorted(c for c in columns if c in ("wnid", "prompt")) != ["prompt", "wnid"]:
                    raise ConfigError(
                        f"{path}: its first line is {','.join(row)[:60]!r}; expected wnid,prompt, "
                        "separated by a comma."
                    )
                continue
            if len(row) != len(columns):
                raise ConfigError(
                    f"{path} line {reader.line_num}: has {len(row)} cells; expected {len(columns)} "
                    f"({','.join(columns)}); put prompts that hold a comma in double quotes."
                )
            # as sources write keys: a folder's name may be in another Unicode form
            key = unicodedata.normalize("NFC", row[columns.index("wnid")].strip())
            prompt = row[columns.index("prompt")]
            if not key:
                raise ConfigError(f"{path} line {reader.line_num}: the wnid is empty; fill it in.")
            names.setdefault(key, []).append(prompt)
    except csv.Error as error:
        raise ConfigError(
            f'{path} line {reader.line_num}: is no CSV ({error}); inside a quoted prompt write " as "".'
        ) from None
    if not names:
        raise ConfigError(f"{path}: no row below the head; expected one per class.")
    return Names({key: tuple(found) for key, found in names.items()}, {}, frozenset(names))
