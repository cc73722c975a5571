"""A T5 folder small enough for a test: random weights, and a sentencepiece model trained on class names."""

from __future__ import annotations

import io
import json
import pathlib
from typing import Any

import numpy as np
import sentencepiece

from synthaug.models import functional
from synthaug.models.t5 import T5Config, build_t5
from synthaug.weights import rules as maps
from synthaug.weights import t5
from synthaug.weights.tensors import write_tensors

CONFIG = T5Config(vocab_size=260, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)

# Names as in CLIP's list of ImageNet classes: hyphens, apostrophes, slashes, brackets, capitals.
_LISTED = (
    "tench, goldfish, great white shark, tiger shark, kite (bird of prey), bald eagle, great grey owl, "
    "fire salamander, smooth newt, American bullfrog, green iguana, Carolina anole, Komodo dragon, "
    "eastern hog-nosed snake, yellow garden spider, bittern bird, harvestman, Leonberger, Schipperke, "
    "brussels griffon, Petit Basset Griffon Vendéen, St. Bernard, Xoloitzcuintli (Mexican hairless dog), "
    "T-shirt, carved pumpkin / jack-o'-lantern, yurt, CRT monitor, Band-Aid, four-poster bed, "
    "high-speed train, Christmas stocking, go-kart, half-track, mobile phone, parallel bars, "
    "product packet / packaging, railroad car, through arch bridge, one-piece bathing suit, "
    "maillot 'tank suit', hot dog, ice pop, Windsor tie, pickup truck, Polaroid camera, plate, missile, "
    "sunglasses, toilet paper, digital clock, zero, one, two, three, four, five, six, seven, eight, nine"
)
NAMES = tuple(_LISTED.split(", "))


def train_pieces(file: pathlib.Path) -> pathlib.Path:
    """Writes a spiece.model with T5's special tokens and returns its path."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*NAMES, *(name.lower() for name in NAMES)] * 3),
        model_writer=model,
        vocab_size=150,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(model.getvalue())
    return file


def random_params(config: T5Config, seed: int = 0) -> dict[str, Any]:
    """Returns parameters f32 of a realistic size: attention neither flat nor stuck on one token."""
    random = np.random.default_rng(seed)
    shapes = maps.flatten(functional.abstract(build_t5(config))["params"])
    scale = {"embedding": 1.0, "relative_bias": 0.5, "scale": 0.2, "kernel": config.d_model**-0.5}
    made = {
        name: (name.endswith("scale") + scale[name.rsplit("/")[-1]] * random.normal(size=leaf.shape))
        for name, leaf in shapes.items()
    }
    return maps.nest({name: array.astype(np.float32) for name, array in made.items()})


def write_folder(folder: pathlib.Path, config: T5Config = CONFIG, seed: int = 0) -> pathlib.Path:
    """Writes config.json, model.safetensors and spiece.model, and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(t5.write_config(config)))
    write_tensors(folder, t5.FILE, maps.write_params(t5.rules(config), random_params(config, seed)))
    train_pieces(folder / "spiece.model")
    return folder
