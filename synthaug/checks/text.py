"""What is wrong with the folder of a T5 encoder, as far as its small files and names of files tell."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from synthaug.experiment import TextEncoder

CONFIG, STEM, PIECES = "config.json", "model", "spiece.model"


def t5_problems(path: str, settings: TextEncoder) -> list[str]:
    """Returns what is wrong with the T5 folder at `path` for the settings; reads config.json alone.

    Args:
        path: a transformers folder, or a diffusers pipeline with text_encoder/ and tokenizer/.
        settings: `width` must be the encoder's.
    """
    at = f"text_encoder.path = {path!r}"
    folder = pathlib.Path(path)
    if not path or not folder.is_dir():
        return [f"{at} is no folder; expected that of a T5 v1.1 encoder, e.g. weights/t5-v1_1-xxl."]
    if not (folder / CONFIG).is_file():
        folder = folder / "text_encoder"
    config = _read_object(folder / CONFIG)
    if config is None:
        return [f"{at}: no readable {CONFIG} there or in its text_encoder/; download the whole model."]
    kind, gate = config.get("model_type"), config.get("feed_forward_proj", "relu")
    if kind != "t5" or gate != "gated-gelu":
        return [
            f"{at}: {CONFIG} has model_type = {kind!r} and feed_forward_proj = {gate!r}; expected 't5' and "
            "'gated-gelu', a T5 v1.1 encoder such as google/t5-v1_1-xxl."
        ]
    problems = []
    if config.get("d_model") != settings.width:
        problems.append(
            f"text_encoder.width = {settings.width}, but {folder / CONFIG} has d_model = "
            f"{config.get('d_model')}; set the width to that."
        )
    places = (folder, folder / "tokenizer", folder.parent / "tokenizer")
    if not any((place / PIECES).is_file() for place in places):
        listed = ", ".join(map(str, places))
        problems.append(f"{at}: no {PIECES}; expected it in one of {listed}: download the tokenizer.")
    if missing := _missing_weights(folder):
        problems.append(f"{at}: {missing} is not there; download the model's safetensors files, all of them.")
    return problems


def _missing_weights(folder: pathlib.Path) -> str:
    """Returns a file of weights that should be there and is not; empty if there is none."""
    for stem in (f"{STEM}.safetensors", f"{STEM}.fp16.safetensors"):
        if (folder / stem).is_file():
            return ""
        for index in (f"{stem}.index.json", f"{STEM}.safetensors.index.fp16.json"):
            if (folder / index).is_file():
                places = (_read_object(folder / index) or {}).get("weight_map")
                shards = sorted({str(v) for v in places.values()}) if isinstance(places, dict) else []
                return next((shard for shard in shards if not (folder / shard).is_file()), "")
    return f"{STEM}.safetensors"


def _read_object(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) else None
