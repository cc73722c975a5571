"""Sets written by Hugging Face datasets and by webdataset themselves are read untouched."""

from __future__ import annotations

import pathlib
import warnings

import pytest

from synthaug.data import sources
from synthaug.experiment import Data
from tests import formats

KEYS = ["n01440764", "n02119789"]
MADE = formats.pictures(KEYS, 60)
COUNTS = {"num_classes": 2, "num_train": 96, "num_val": 24}


def check(settings: Data) -> None:
    listing = sources.scan(settings)
    reader = sources.Reader(listing)
    assert [key for key, _ in listing.classes] == KEYS
    assert [reader.read(row) for row in range(len(listing))] == [image.data for image in MADE]
    assert [KEYS[k] for k in listing.class_index] == [image.key for image in MADE]


def test_parquet_of_hugging_face(tmp_path: pathlib.Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        datasets = pytest.importorskip("datasets")
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=KEYS)}
        columns = {
            "image": [{"bytes": image.data, "path": f"{image.name}.JPEG"} for image in MADE],
            "label": [image.key for image in MADE],
        }
        made = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
        made.to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    check(Data(source="parquet", path=str(tmp_path), **COUNTS))


def test_tars_of_webdataset(tmp_path: pathlib.Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        webdataset = pytest.importorskip("webdataset")
        with webdataset.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=50, verbose=0) as writer:
            for i, image in enumerate(MADE):
                label = KEYS.index(image.key)
                writer.write({"__key__": image.name, "jpg": image.data, "cls": label, "json": {"number": i}})
    (tmp_path / "keys.txt").write_text("\n".join(KEYS))
    check(
        Data(
            source="webdataset",
            path=str(tmp_path / "train-{000000..000002}.tar"),
            class_list=str(tmp_path / "keys.txt"),
            **COUNTS,
        )
    )
