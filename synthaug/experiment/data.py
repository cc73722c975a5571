"""The labelled images, the prompts and the text encoder."""

from __future__ import annotations

import dataclasses

from synthaug.config import knob

MAX_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The labelled images and their split."""

    source: str = knob(doc="where images come from", choices=("digits", "folder"))
    path: str = knob("", "folder with one folder of images per class, for source = folder")
    val_path: str = knob("", "the same for validation; empty: cut from path by val_every")
    num_classes: int = knob(doc="classes in the source; checked by prepare", unit="classes", at_least=2)
    num_train: int = knob(doc="images in the train split; checked by prepare", unit="images", at_least=1)
    num_val: int = knob(doc="images in the validation split", unit="images", at_least=1)
    val_every: int = knob(
        5, "of each class, in source order, every n-th image goes to validation", unit="images", at_least=2
    )
    channels: int = knob(3, "1 for grey images, 3 for colour", choices=(1, 3))
    resize: str = knob("area", "filter that makes each resolution from the source image", choices=("area",))
    decoder: str = knob("pillow", "library that decodes image files", choices=("pillow", "tensorflow"))
    shard_size: int = knob(1024, "images per prepared shard", unit="images", at_least=1)
    max_corrupt: int = knob(0, "unreadable images that prepare may leave out", unit="images", at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts:
    """The text for each class."""

    names: dict[str, str] = knob({}, "class key -> class name; an absent class keeps the source's name")
    template: str = knob("{}", "prompt with {} for the class name; the paper uses the bare name")


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
