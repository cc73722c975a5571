"""The labelled images, the prompts and the text encoder."""

from __future__ import annotations

import dataclasses

from synthaug.config import knob

MAX_SEED = 2**31 - 1


SOURCES = ("digits", "folder", "ilsvrc", "tfrecord", "webdataset", "parquet", "npz", "manifest")
FILTERS = ("area", "adm", "cas")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The labelled images, their split and what is prepared of them."""

    source: str = knob(doc="where images come from and in which format", choices=SOURCES)
    path: str = knob("", "the train images: a folder, a file, or a pattern such as train-*.tar")
    val_path: str = knob("", "the same for validation; empty: cut from path by val_every")
    val_labels: str = knob("", "ilsvrc: the devkit's ground truth, or a file of `name wnid` lines")
    class_list: str = knob(
        "", "file with a class key per line, by label number; needed where a source holds numbers only"
    )
    num_classes: int = knob(doc="classes in the source; checked by scan", unit="classes", at_least=2)
    num_train: int = knob(doc="files in the train split; checked by scan", unit="images", at_least=1)
    num_val: int = knob(doc="files in the validation split", unit="images", at_least=1)
    val_every: int = knob(
        5, "of each class, in source order, every n-th image goes to validation", unit="images", at_least=2
    )
    channels: int = knob(3, "1 for grey images, 3 for colour", choices=(1, 3))
    resolutions: tuple[int, ...] = knob((), "prepared besides those of the cascade", unit="px", at_least=1)
    keep_original: bool = knob(False, "also keep the files as they are, for classifiers that crop them")
    resize: str = knob("area", "filter that makes each resolution from the source image", choices=FILTERS)
    decoder: str = knob("pillow", "library that decodes image files", choices=("pillow", "tensorflow"))
    shard_size: int = knob(1024, "images per prepared shard", unit="images", at_least=1)
    shards_per_part: int = knob(1, "shards one job prepares", at_least=1)
    max_corrupt: int = knob(0, "unreadable images that prepare may leave out", unit="images", at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeSet:
    """Labelled images that another generator made, of the classes of the study."""

    source: str = knob(doc="format", choices=SOURCES[1:])
    path: str = knob(doc="a folder, a file, or a pattern; manifest: a set of a synthaug run")
    class_list: str = knob(
        "", "file with a class key per line, by label number; empty: numbers are the study's own order"
    )
    num_images: int = knob(doc="images in it; checked by scan", unit="images", at_least=1)
    resolution: int = knob(doc="side of its images", unit="px", at_least=1)
    resize: str = knob("", "filter for images of other sizes; empty: refuse them", choices=("", *FILTERS))
    licence: str = knob("", "terms of its images, for the report")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValSet:
    """A further set of real images that every classifier is measured on, as ImageNet-V2 and ImageNet-ReaL."""

    source: str = knob(
        doc="format; val: the study's own validation images again, with real_labels",
        choices=("val", "folder", "tfrecord", "webdataset", "parquet", "npz"),
    )
    path: str = knob("", "a folder, a file, or a pattern")
    class_list: str = knob(
        "", "file with a class key per line, by label number; empty: numbers are the study's own order"
    )
    num_images: int = knob(0, "images in it; checked by scan", unit="images", at_least=0)
    real_labels: str = knob("", "val: ImageNet-ReaL's real.json, several right labels per image, or none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts:
    """The text for each class."""

    names: dict[str, str] = knob({}, "class key -> class name; an absent class keeps the source's name")
    names_file: str = knob(
        "", "LOC_synset_mapping.txt, the devkit's meta.mat, or a CSV with the columns wnid,prompt"
    )
    template: str = knob("{}", "prompt with {} for the class name; the paper uses the bare name")
    templates: tuple[str, ...] = knob((), "several templates, each a prompt of every class, instead")
    max_words: int = knob(8, "the linter warns of longer names", unit="words", at_least=1)
    allow_duplicates: bool = knob(
        False, "let classes share a prompt, as CLIP's list does; else embed refuses them"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subset:
    """Some of the real train images, chosen by the seed; smaller subsets lie inside larger ones."""

    per_class: int = knob(0, "images of each class; 0 = all", unit="images", at_least=0)
    fraction: float = knob(1.0, "share of each class, rounded up", above=0, at_most=1)
    exponent: float = knob(
        0.0,
        "long tail: of the k-th class (k + 1) ** -exponent of its images, at least 1, in random order",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """The frozen text encoder behind the prompt bank."""

    kind: str = knob(
        "byte", "byte: embedded byte-level transformer, no download; t5: T5 v1.1", choices=("byte", "t5")
    )
    path: str = knob("", "t5: folder with config.json, safetensors and spiece.model")
    clean: bool = knob(True, "t5: DeepFloyd IF's clean-up of the prompt; else it is lower-cased and trimmed")
    max_length: int = knob(
        16, "tokens per prompt; longer ones are refused, by t5 cut with a warning", unit="tokens", at_least=1
    )
    width: int = knob(64, "width of an embedding", unit="channels", at_least=8)
    num_layers: int = knob(2, "transformer layers", at_least=1)
    num_heads: int = knob(4, "attention heads", at_least=1)
    seed: int = knob(0, "seed of the frozen random weights", at_least=0, at_most=MAX_SEED)
