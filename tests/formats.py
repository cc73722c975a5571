"""Makes small labelled sets in the formats that people have: for tests of sources and of the pipeline.

Every function writes the real format with the library that its users write it with (tarfile, tensorflow,
pyarrow, numpy, scipy), never with our own code.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
import tarfile
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

# wnid -> lemmas, in the order of ILSVRC2012_ID, which is not the sorted one
SYNSETS = {
    "n02119789": "kit fox, Vulpes macrotis",
    "n02100735": "English setter",
    "n02110185": "Siberian husky",
    "n01440764": "tench, Tinca tinca",
    "n03126707": "crane",
    "n02012849": "crane",
    "n04008634": "projectile, missile",
    "n03773504": "missile",
    "n02105855": "Shetland sheepdog, Shetland sheep dog, Shetland",
    "n01443537": "goldfish, Carassius auratus",
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image file with its class."""

    key: str
    name: str  # without a suffix
    data: bytes  # JPEG
    pixels: np.ndarray  # u8[H,W,3], as Pillow decodes `data`


def pictures(
    keys: Sequence[str],
    per_class: int,
    seed: int = 0,
    size: tuple[int, int] = (60, 40),
    quality: int = 90,
) -> list[Picture]:
    """Returns JPEGs that a small classifier can tell apart: stripes whose colour and width are the class."""
    made = []
    for k, key in enumerate(keys):
        for i in range(per_class):
            random = np.random.default_rng([seed, k, i])
            width, height = (int(side + random.integers(-side // 8, side // 8 + 1)) for side in size)
            y, x = np.mgrid[:height, :width]
            angle, phase = np.pi * k / len(keys) + random.normal(0, 0.05), random.uniform(0, 6.3)
            wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) / (2 + k % 3) + phase)[:, :, None]
            hue = 0.5 + 0.5 * np.cos(2 * np.pi * (k / len(keys) + np.arange(3) / 3))
            image = 128 + 80 * wave * (hue - 0.3) + 60 * (hue - 0.5) + random.normal(0, 8, (height, width, 3))
            data = jpeg(image.clip(0, 255).astype(np.uint8), quality)
            made.append(Picture(key, f"{key}_{i + 1}", data, np.asarray(Image.open(io.BytesIO(data)))))
    return made


def jpeg(pixels: np.ndarray, quality: int = 90, mode: str = "RGB") -> bytes:
    """Returns u8[H,W,3] as a JPEG; mode CMYK as Photoshop writes it, inverted."""
    return file_of(Image.fromarray(pixels).convert(mode), "JPEG", quality=quality)


def file_of(image: Image.Image, kind: str, **settings: object) -> bytes:
    """Returns the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def write_folder(root: pathlib.Path, images: Iterable[Picture]) -> pathlib.Path:
    """Writes root/<key>/<name>.JPEG."""
    for image in images:
        path = root / image.key / f"{image.name}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.data)
    return root


def write_tar(
    path: pathlib.Path, members: Iterable[tuple[str, bytes]], kind: int = tarfile.GNU_FORMAT
) -> None:
    """Writes plain files into a tar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def tar_bytes(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Returns a tar of plain files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_ilsvrc(
    root: pathlib.Path, train: Sequence[Picture], val: Sequence[Picture], seed: int = 0
) -> pathlib.Path:
    """Writes what one gets from image-net.org and Kaggle, and returns `root`.

    root/ILSVRC2012_img_train.tar      a tar of one tar per class
    root/ILSVRC2012_img_val.tar        ILSVRC2012_val_00000001.JPEG and so on, classes in random order
    root/devkit/meta.mat               synsets by ILSVRC2012_ID, with one inner node
    root/devkit/ILSVRC2012_validation_ground_truth.txt
    root/LOC_synset_mapping.txt, LOC_val_solution.csv, val.txt (Caffe), wnids.txt, named.txt
    """
    keys = sorted({image.key for image in train})
    by_id = [key for key in SYNSETS if key in keys] + [key for key in keys if key not in SYNSETS]
    inner = [
        (f"{key}.tar", tar_bytes((f"{i.name}.JPEG", i.data) for i in train if i.key == key)) for key in keys
    ]
    write_tar(root / "ILSVRC2012_img_train.tar", inner)
    val = [val[i] for i in np.random.default_rng(seed).permutation(len(val))]
    names = [f"ILSVRC2012_val_{i + 1:08d}" for i in range(len(val))]
    write_tar(
        root / "ILSVRC2012_img_val.tar",
        [(f"{name}.JPEG", image.data) for name, image in zip(names, val, strict=True)],
    )
    labelled = list(zip(names, [image.key for image in val], strict=True))
    texts = {
        "devkit/ILSVRC2012_validation_ground_truth.txt": [f"{by_id.index(k) + 1}" for _, k in labelled],
        "LOC_synset_mapping.txt": [f"{key} {SYNSETS.get(key, key)}" for key in keys],
        "LOC_val_solution.csv": [
            "ImageId,PredictionString",
            *(f"{n},{k} 1 2 30 40" for n, k in labelled[::-1]),
        ],
        "val.txt": [f"{name}.JPEG {keys.index(key)}" for name, key in labelled],
        "wnids.txt": [key for _, key in labelled],
        "named.txt": [f"{name}.JPEG {key}" for name, key in labelled],
    }
    for name, lines in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("\n".join(lines) + "\n")
    write_meta(root / "devkit" / "meta.mat", by_id)
    return root


def write_meta(path: pathlib.Path, by_id: Sequence[str]) -> None:
    """Writes the devkit's meta.mat: the classes by ILSVRC2012_ID, behind them an inner node."""
    from scipy.io import savemat

    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(float(i + 1), key, SYNSETS.get(key, key), "a gloss", 0.0) for i, key in enumerate(by_id)]
    rows.append((len(rows) + 1.0, "n02083346", "canine, canid", "an inner node", 2.0))
    savemat(path, {"synsets": np.array(rows, dtype=kinds)[:, None]})


def write_tfrecords(
    folder: pathlib.Path, images: Sequence[Picture], num_files: int, writer: str, keys: Sequence[str]
) -> pathlib.Path:
    """Writes TFRecords of ImageNet, and returns the folder.

    Args:
        folder: where to.
        images: what.
        num_files: files, named as -00000-of-00002.
        writer: "tpu" (the Cloud TPU converter), "numbers" (the same without the synset), or "tfds" (with
            label.labels.txt beside).
        keys: class keys in the order of the labels.
    """
    import tensorflow as tf

    def feature(value: str | bytes | int) -> tf.train.Feature:
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        data = value.encode() if isinstance(value, str) else value
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))

    folder.mkdir(parents=True, exist_ok=True)
    stem = "imagenet2012-train.tfrecord" if writer == "tfds" else "train"
    for file in range(num_files):
        with tf.io.TFRecordWriter(str(folder / f"{stem}-{file:05d}-of-{num_files:05d}")) as out:
            for image in images[file::num_files]:
                label, (height, width, _) = keys.index(image.key), image.pixels.shape
                values = {"image": image.data, "label": label, "file_name": f"{image.name}.JPEG"}
                if writer != "tfds":
                    values = {
                        "image/height": height,
                        "image/width": width,
                        "image/colorspace": "RGB",
                        "image/channels": 3,
                        "image/class/label": label + 1,
                        "image/class/synset": image.key,
                        "image/format": "JPEG",
                        "image/filename": f"{image.name}.JPEG",
                        "image/encoded": image.data,
                    }
                if writer == "numbers":
                    del values["image/class/synset"]
                features = tf.train.Features(feature={name: feature(v) for name, v in values.items()})
                out.write(tf.train.Example(features=features).SerializeToString())
    if writer == "tfds":
        (folder / "label.labels.txt").write_text("\n".join(keys) + "\n")
    return folder


def write_webdataset(
    folder: pathlib.Path, images: Sequence[Picture], num_files: int, keys: Sequence[str], label: str = "cls"
) -> pathlib.Path:
    """Writes tars of samples, and returns the folder.

    Args:
        folder: where to.
        images: what.
        num_files: tars.
        keys: class keys in the order of the label numbers.
        label: "cls" (a number), "wnid" (the key in .cls), or "json" (a mapping with label and filename).
    """
    for file in range(num_files):
        members = []
        for image in images[file::num_files]:
            number = keys.index(image.key)
            text = {
                "cls": f"{number}",
                "wnid": image.key,
                "json": json.dumps({"filename": f"{image.name}.JPEG", "label": number}),
            }[label]
            members += [
                (f"{image.name}.jpg", image.data),
                (f"{image.name}.{'json' if label == 'json' else 'cls'}", text.encode()),
            ]
        write_tar(folder / f"train-{file:06d}.tar", members)
    return folder


def write_parquet(
    folder: pathlib.Path, images: Sequence[Picture], num_files: int, keys: Sequence[str], named: bool = True
) -> pathlib.Path:
    """Writes parquet as Hugging Face's datasets do, 3 rows per group, and returns the folder.

    Args:
        folder: where to.
        images: what.
        num_files: files.
        keys: class keys in the order of the label numbers.
        named: write the keys into the schema, as ClassLabel does.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    kind = {"_type": "ClassLabel", "names": list(keys)} if named else {"dtype": "int64", "_type": "Value"}
    features = {"image": {"_type": "Image"}, "label": kind}
    for file in range(num_files):
        part = images[file::num_files]
        table = pa.table(
            {
                "image": pa.array(
                    [{"bytes": image.data, "path": f"{image.name}.JPEG"} for image in part],
                    pa.struct({"bytes": pa.binary(), "path": pa.string()}),
                ),
                "label": pa.array([keys.index(image.key) for image in part], pa.int64()),
            }
        )
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / f"train-{file:05d}-of-{num_files:05d}.parquet", row_group_size=3)
    return folder


def write_npz(
    path: pathlib.Path, images: Sequence[Picture], keys: Sequence[str], side: int, packed: bool = False
) -> pathlib.Path:
    """Writes samples as ADM's image_sample.py does (arr_0, arr_1), shrunk to `side`, and returns the path."""
    pixels = np.stack([np.asarray(Image.fromarray(image.pixels).resize((side, side))) for image in images])
    labels = np.array([keys.index(image.key) for image in images])
    path.parent.mkdir(parents=True, exist_ok=True)
    (np.savez_compressed if packed else np.savez)(path, pixels, labels)
    return path
