"""What the labels of a source mean: class lists, and labels that do not fit them."""

from __future__ import annotations

import json
import pathlib
import re
import unicodedata
from collections.abc import Mapping

import numpy as np

from synthaug.data.sources.found import Found, some_of
from synthaug.errors import ConfigError, DataError
from synthaug.matlab import read_mat

# synset_words.txt and LOC_synset_mapping.txt, or map_clsloc.txt with its number
_NUMBER = re.compile(r"[0-9]{1,9}")
_WNID = re.compile(r"(n[0-9]{8})(?:[\s,:]+(?:[0-9]+\s+)?(.*))?")


def read_list(path: str, where: str) -> dict[str, str]:
    """Returns {class key: name} of a class list, by label number.

    A line is a key; lines that all start with a WNID may go on with its names, of which the first counts.
    JSON is a list of keys, or Keras' {"0": ["n01440764", "tench"]}. The devkit's meta.mat is in the order of
    ILSVRC2012_ID.

    Args:
        path: the file.
        where: the knob, for errors.

    Raises:
        DataError: the file cannot be read, has an empty line, or a key twice.
    """
    if path.endswith(".mat"):
        return _of_devkit(pathlib.Path(path).expanduser(), where)
    try:
        text = pathlib.Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8"
        raise DataError(f"{where} = {path!r}: cannot be read ({reason}); expected a text file.") from None
    entries = _of_json(text, path, where) if path.lower().endswith(".json") else _of_lines(text)
    keys = [key for key, _ in entries]
    if not keys or "" in keys:
        found = f"line {keys.index('') + 1} is empty" if keys else "is empty"
        raise DataError(f"{where} = {path!r}: {found}; expected one class key per line.")
    table = {unicodedata.normalize("NFC", key): name for key, name in entries}
    if len(table) < len(keys):
        double = sorted({key for key in keys if keys.count(key) > 1})
        raise DataError(f"{where} = {path!r}: {some_of(double)} stands twice; expected every key once.")
    return table


def is_map_clsloc(path: str) -> bool:
    """Returns whether a class list is the devkit's map_clsloc.txt: lines of `n02119789 1 kit_fox`."""
    try:
        with open(pathlib.Path(path).expanduser(), encoding="utf-8-sig") as file:
            return re.match(r"n[0-9]{8}\s+[0-9]+\s+\S", file.readline()) is not None
    except (OSError, UnicodeDecodeError):
        return False  # said where it is read


def _of_lines(text: str) -> list[tuple[str, str]]:
    lines = [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []
    matches = [_WNID.fullmatch(line) for line in lines]
    if all(matches):
        found = [m.groups() for m in matches if m]
        return [(wnid, _first_name(names) or wnid) for wnid, names in found]
    return [(line, line) for line in lines]


def _first_name(names: str | None) -> str:
    return (names or "").split(",")[0].replace("_", " ").strip()


def _of_devkit(path: pathlib.Path, where: str) -> dict[str, str]:
    """Returns the leaves of a meta.mat by ILSVRC2012_ID; the inner nodes come behind them."""
    try:
        synsets = read_mat(path).get("synsets") or []
        rows = [
            (int(s["ILSVRC2012_ID"][0]), str(s["WNID"]), _first_name(str(s["words"])))
            for s in synsets
            if not int(s["num_children"][0])
        ]
    except ConfigError as error:
        raise DataError(f"{where}: {error}") from None
    except (KeyError, IndexError, TypeError, ValueError):
        rows = []
    if not rows or [number for number, _, _ in sorted(rows)] != list(range(1, len(rows) + 1)):
        raise DataError(
            f"{where} = {str(path)!r}: has no table synsets with ILSVRC2012_ID 1, 2 and so on; expected the "
            "meta.mat of ILSVRC2012's devkit."
        )
    return {wnid: name for _, wnid, name in sorted(rows)}


def _of_json(text: str, path: str, where: str) -> list[tuple[str, str]]:
    try:
        tree = json.loads(text)
        if isinstance(tree, dict):
            tree = [tree[str(number)] for number in range(len(tree))]
        pairs = [(e, e) if isinstance(e, str) else (e[0], e[1]) for e in tree]
        if all(isinstance(part, str) for pair in pairs for part in pair):
            return pairs
    except (ValueError, KeyError, TypeError, IndexError):
        pass
    raise DataError(
        f"{where} = {path!r}: is no class list; expected a JSON list of keys, or "
        '{"0": ["n01440764", "tench"], ...} with every number.'
    )


def explained(found: Found, table: Mapping[str, str] | None, where: str, knob: str) -> Found:
    """Returns `found` with keys that are all in the table, if there is one.

    Class folders called 0, 1 and so on (ImageNet-V2) are label numbers, unless the table has such keys. So
    are labels whose own names are all unknown to the table: Hugging Face has "tench, Tinca tinca" for WNIDs.

    Args:
        found: images of one path.
        table: {class key: name} by label number, from a class list or the study.
        where: the knob of the path, for errors.
        knob: the knob of the class list, for errors.

    Raises:
        DataError: numbers without a table, a number out of its range, or a key that is not in it.
    """
    if table is not None and found.keys and not set(found.keys) <= set(table):
        _forget_names(found, table)
    if found.keys is None:
        if table is None:
            raise DataError(
                f"{where}: labels are numbers; expected a file that says what they mean, with one class key "
                f"per line: set {knob}."
            )
        found.keys = list(table)
        found.names = {**table, **found.names}
    elif table is not None and (stray := sorted(set(found.keys) - set(table))):
        raise DataError(
            f"{where}: class {some_of(stray)} is not among the {len(table)} classes of {knob}; expected the "
            "same classes: correct one of them."
        )
    found.numbered = found.numbered and table is None
    _check_range(found, where)
    return found


def _forget_names(found: Found, table: Mapping[str, str]) -> None:
    """Makes labels numbers again where the source's own names for them mean nothing."""
    keys = found.keys or []
    if found.numbered and not set(keys) & set(table):
        found.keys = None
    elif all(map(_NUMBER.fullmatch, keys)):
        numbers = np.array([int(key) for key in keys])
        found.label = type(found.label)("q", numbers[found.labels()].tolist())
        found.keys = None


def _check_range(found: Found, where: str) -> None:
    labels, count = found.labels(), len(found.keys or ())
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if len(wrong):
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DataError(
            f"{where}: the label of {found.source_id[wrong[0]]} is {labels[wrong[0]]}{more}; expected "
            f"0 to {count - 1}: correct the labels or the class list."
        )


def of_source(found: Found, table: Mapping[str, str] | None, where: str) -> tuple[tuple[str, str], ...]:
    """Returns the (key, name) of all classes, sorted by key.

    Raises:
        DataError: the class list has classes that the source has not.
    """
    keys = set(found.keys or ())
    if table is not None and (lacking := sorted(set(table) - keys)):
        raise DataError(
            f"{where}: no class {some_of(lacking)}, but it is in data.class_list; expected the same classes "
            "in both: correct one of them."
        )
    names = {**(table or {}), **found.names}
    return tuple((key, names.get(key, key)) for key in sorted(keys))
