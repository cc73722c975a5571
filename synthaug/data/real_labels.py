"""ImageNet-ReaL: several right labels, or none, for each ILSVRC2012 validation image (Beyer et al. 2020).

The published real.json is a list of 50,000 lists of label numbers, in the order of the images' file names.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Sequence

from synthaug.errors import DataError

_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


def read_real_labels(path: str, num_classes: int) -> list[list[int]]:
    """Returns the label numbers of each image.

    Raises:
        DataError: the file cannot be read or holds something else.
    """
    try:
        tree = json.loads(pathlib.Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no JSON"
        raise DataError(f"{path}: cannot be read ({reason}); expected ImageNet-ReaL's real.json.") from None
    if not isinstance(tree, list) or not tree:
        raise DataError(f"{path}: expected a list with a list of label numbers per image, as in real.json.")
    for place, labels in enumerate(tree):
        if not isinstance(labels, list) or any(type(label) is not int for label in labels):
            raise DataError(f"{path}: entry {place} is {str(labels)[:40]}; expected a list of label numbers.")
        if labels and not 0 <= min(labels) <= max(labels) < num_classes:
            raise DataError(
                f"{path}: entry {place} is {str(labels)[:40]}; expected labels from 0 to {num_classes - 1}, "
                "the numbers of the classes in the order of their WNIDs."
            )
    return tree


def align(labels: Sequence[list[int]], source_ids: Sequence[str], path: str) -> list[list[int]]:
    """Returns the labels of images, found by the number in their names, else by the names' order.

    Args:
        labels: of all files, in the order of their names.
        source_ids: of the images at hand; unreadable files may be left out if the names hold numbers.
        path: of the labels, for errors.

    Raises:
        DataError: a number without labels, or as many names as labels are needed and not there.

    Example:
        >>> align([[1], [2]], ["val/n1/ILSVRC2012_val_00000002.JPEG"], "real.json")
        [[2]]
    """
    found = [_NUMBER.search(name) for name in source_ids]
    places = [int(match.group(1)) - 1 for match in found if match]
    if len(places) < len(source_ids):
        if len(source_ids) != len(labels):
            raise DataError(
                f"{path}: has labels of {len(labels)} images, the set has {len(source_ids)}; expected one "
                "each, or names such as ILSVRC2012_val_00000001.JPEG."
            )
        bare = [name.rpartition("/")[2] for name in source_ids]
        if len(set(bare)) < len(bare):
            raise DataError(
                f"{path}: labels images by the order of their names, and two of the set have one name; "
                "expected names such as ILSVRC2012_val_00000001.JPEG."
            )
        order = sorted(range(len(bare)), key=bare.__getitem__)
        places = [0] * len(order)
        for place, row in enumerate(order):
            places[row] = place
    for name, place in zip(source_ids, places, strict=True):
        if not 0 <= place < len(labels):
            raise DataError(f"{path}: has labels of {len(labels)} images; expected some for {name}, too.")
    return [list(labels[place]) for place in places]
