"""What is said when the tensors of a file are not those of the network: one error with the likely cause."""

from __future__ import annotations

from collections.abc import Iterable

from synthaug.errors import DataError
from synthaug.weights.tensors import FLOATS, NO_LORA, Tensors

_LOOKS_LIKE = {
    "input_blocks.": "an ADM U-Net",
    "down_blocks.": "a diffusers U-Net",
    "encoder.block.": "a T5 encoder",
    "text_model.": "a CLIP text encoder",
    "decoder.up_blocks.": "an autoencoder",
    "down/": "a network in synthaug's own names",
}
_PREFIXES = ("module.", "_orig_mod.", "model.diffusion_model.", "ema.", "model_ema.", "unet.", "model.")


def check_tensors(wanted: dict[str, tuple[int, ...]], tensors: Tensors, ignore: tuple[str, ...]) -> None:
    """Raises unless a file holds exactly the tensors that are wanted.

    Args:
        wanted: {name: shape} by the family's rules.
        tensors: the file.
        ignore: beginnings of further names that may be there.

    Raises:
        DataError: names the first tensor that is missing, of another shape, left over, or not of floats.
    """
    there = {name for name in tensors.stored if name in wanted or not name.startswith(ignore or ("\0",))}
    missing = [name for name in wanted if name not in there]
    extra = sorted(there - wanted.keys())
    misshapen = [name for name in wanted if name in there and tensors.shape(name) != tuple(wanted[name])]
    if missing:
        name = missing[0]
        other = f"; left over is {extra[0]} of shape {_text(tensors.shape(extra[0]))}" if extra else ""
        found = f"is missing, expected shape {_text(wanted[name])}{other}"
        raise _error(tensors, name, found, len(missing), len(wanted), _cause(missing, extra, there))
    if misshapen:
        name = misshapen[0]
        found = f"has shape {_text(tensors.shape(name))}, expected {_text(wanted[name])}"
        cause = "config.json describes another size of this family: take both files from one model"
        raise _error(tensors, name, found, len(misshapen), len(wanted), cause)
    if extra:
        name = extra[0]
        found = f"of shape {_text(tensors.shape(name))} is left over; the network expects no such tensor"
        raise _error(tensors, name, found, len(extra), len(there), _cause(missing, extra, there))
    odd = [name for name in wanted if tensors.dtype(name) not in FLOATS]
    if odd:
        found = f"has dtype {tensors.dtype(odd[0])}, expected one of {', '.join(FLOATS)}"
        cause = "the file is quantised or was altered: take the model's files in f32, f16 or bf16"
        raise _error(tensors, odd[0], found, len(odd), len(wanted), cause)


def _cause(missing: list[str], extra: list[str], there: Iterable[str]) -> str:
    if any("lora" in name.lower() for name in extra):
        return NO_LORA
    if not missing:
        return "config.json describes a smaller network or one without this part: take both from one model"
    for prefix in _PREFIXES:
        if any(name.removeprefix(prefix) in missing for name in extra if name.startswith(prefix)):
            what = "an EMA copy" if "ema" in prefix else "a trainer's wrapper"
            return (
                f"every name begins with {prefix!r}, as in {what}: remove this beginning, or export the model"
            )
    wanted = set(missing)
    for mark, kind in _LOOKS_LIKE.items():
        if any(name.startswith(mark) for name in extra) and not any(n.startswith(mark) for n in wanted):
            return f"the file looks like {kind}: name the folder of the model that config.json describes"
    if not extra:
        return "the file is one of several shards or incomplete, or config.json describes a larger network"
    return "config.json describes another size or family: take both files from one model"


def _error(tensors: Tensors, name: str, found: str, number: int, total: int, cause: str) -> DataError:
    more = f" ({number} of {total} tensors are like this)" if number > 1 else ""
    return DataError(f"{tensors.folder}: {name} {found}{more}; {cause}.")


def _text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def check_classifier(
    model: str,
    tensors: Tensors,
    wanted: dict[str, dict[str, tuple[int, ...]]],
    shapes: dict[str, tuple[int, ...]],
) -> None:
    """Raises unless a file holds exactly the tensors of a classifier.

    Args:
        model: its name.
        tensors: the file.
        wanted: {name of a classifier: {name of a tensor: shape}}, for all that there are.
        shapes: those of the file's tensors that count.

    Raises:
        DataError: names the first tensor that is missing, of another shape, or left over, and the cause.
    """
    mine = wanted[model]
    missing = [name for name in mine if name not in shapes]
    misshapen = [name for name in mine if name in shapes and shapes[name] != tuple(mine[name])]
    extra = sorted(shapes.keys() - mine.keys())
    if not (missing or misshapen or extra):
        return
    others = [other for other, tensors in wanted.items() if tensors == shapes]
    cause = _classifier_cause(model, others, missing, extra)
    if missing:
        name, found = missing[0], f"is missing, expected shape {_text(mine[missing[0]])}"
    elif misshapen:
        name, found = (
            misshapen[0],
            f"has shape {_text(shapes[misshapen[0]])}, expected {_text(mine[misshapen[0]])}",
        )
    else:
        name, found = extra[0], f"of shape {_text(shapes[extra[0]])} is left over"
    raise _error(tensors, name, found, len(missing or misshapen or extra), len(mine), cause)


def _classifier_cause(model: str, others: list[str], missing: list[str], extra: list[str]) -> str:
    if others:
        return f"the file holds {' or '.join(others)} and not {model}: open it under that name"
    for prefix in (*_PREFIXES, "backbone."):
        if any(name.removeprefix(prefix) in missing for name in extra if name.startswith(prefix)):
            return f"every name begins with {prefix!r}, as in a trainer's wrapper: remove this beginning"
    if any(name.startswith(("head_dist.", "dist_token")) for name in extra):
        return (
            "it is a distilled DeiT with two heads, which is not supported: take the one without distillation"
        )
    if missing and all(name.startswith(("fc.", "head.")) for name in missing):
        return "the file has no head (num_classes = 0): take the whole model's file"
    if not extra and not missing:
        return f"the file is no {model} of timm's: take the file of that model"
    if not extra:
        return "the file is one of several shards, or incomplete: fetch it again"
    return f"the file is of another network than timm's {model}: name the model that it holds"
