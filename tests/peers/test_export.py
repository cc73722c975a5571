"""The webdataset package reads an export's samples, and Hugging Face's datasets its folders."""

from __future__ import annotations

import pathlib
import warnings

import numpy as np
import pytest

from synthaug.data.export import export
from tests.test_export import COUNT, KEYS, ORIGIN, pixels_of, write_set


def test_webdataset(tmp_path: pathlib.Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        webdataset = pytest.importorskip("webdataset")
        export(write_set(tmp_path / "set"), tmp_path / "out", "webdataset", ORIGIN, per_file=10)
        samples = webdataset.WebDataset(f"{tmp_path}/out/{{00000..00002}}.tar", shardshuffle=False)
        found = list(samples.decode("rgb8").to_tuple("__key__", "png", "cls", "json"))
    assert [key for key, *_ in found] == [f"{i // 10:05d}{i % 10:04d}" for i in range(COUNT)]
    for i, (_, pixels, label, about) in enumerate(found):
        np.testing.assert_array_equal(pixels, pixels_of(i))
        assert (label, about["class_key"], about["seed"]) == (i % 3, KEYS[i % 3], i)


def test_image_folder_of_hugging_face(tmp_path: pathlib.Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        datasets = pytest.importorskip("datasets")
        export(write_set(tmp_path / "set"), tmp_path / "out", "folder", ORIGIN)
        made = datasets.load_dataset(
            "imagefolder", data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")
        )
        names = made.features["label"].names
        assert names == ["a%2Fb", "n02119789", "ünïcode"]
        order = sorted(range(COUNT), key=lambda i: (i % 3, i))
        assert made["label"] == [i % 3 for i in order]
        np.testing.assert_array_equal(np.asarray(made[4]["image"]), pixels_of(order[4]))
