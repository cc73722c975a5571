"""RandAugment (Cubuk et al. 2020) and colour jitter on images of 8 bits, by Pillow.

Two dialects, equal in most operations, not in their strengths:

    tpu   Cloud TPU's, of ResNet-RS and ViT: 16 operations, each applied; strengths count from 0 to 10, more
          extrapolates; moved pixels are looked up at the nearest place and filled with grey (128).
          Some operations weaken with the level (posterize, solarize).
    timm  timm's "rand-mM-mstdS-inc1", of DeiT: 15 operations, each applied with probability 1/2, at a level
          drawn from N(M, S) and cut to [0, 10]; all become stronger with the level; filled with
          ImageNet's mean colour.

Where ours is not Cloud TPU's: its contrast blends with a grey of (pixels / 256), a slip; ours with the
image's mean, as Pillow does. Its grey is truncated, Pillow's rounded. solarize changes nothing from level 10
on. In
timm's dialect all pixels are timm's (tests/peers). timm itself leaves colour jitter out where RandAugment is
on; here each setting does what it says: color_jitter = 0 does what timm's code does with DeiT's arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from synthaug.experiment import Augment

NUM_UNIFORM = 8  # random numbers of an operation
JITTER_UNIFORM = 6  # of color_jitter
MAX_LEVEL = 10.0

TPU = (
    "auto_contrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "cutout",
    "solarize_add",
)
TIMM = (*(name for name in TPU if name not in ("cutout", "solarize_add")), "solarize_add")

_APPLY = 0.5  # timm: probability of an operation
_ENHANCE = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}


class Paint(NamedTuple):
    """How moved pixels are found, and with what empty places are filled."""

    fill: int | tuple[int, ...]
    resample: Image.Resampling


def rand_augment(
    image: Image.Image, settings: Augment, interpolation: str, uniform: np.ndarray
) -> Image.Image:
    """Returns an L or RGB image after settings.rand_augment random operations.

    Args:
        image: of any size.
        settings: number, strength and dialect of the operations.
        interpolation: bilinear or bicubic, for what timm moves.
        uniform: f64[n,8] in [0, 1), a row per operation.
    """
    names = TPU if settings.dialect == "tpu" else TIMM
    paint = paint_of(settings.dialect, interpolation, image.mode)
    for choice, apply, sign, radius, angle, down, right, _ in uniform.tolist():
        if settings.dialect == "timm" and apply >= _APPLY:
            continue
        name = names[int(choice * len(names))]
        normal = math.sqrt(-2 * math.log(1 - radius)) * math.cos(2 * math.pi * angle)  # Box and Muller
        level = max(0.0, settings.magnitude + settings.magnitude_std * normal)
        if settings.dialect == "timm":
            level = min(level, MAX_LEVEL)
        side = image.width if name == "translate_x" else image.height
        value = argument(name, settings.dialect, level, -1 if sign < 0.5 else 1, side)
        image = operate(image, name, value, paint, (down, right))
    return image


def argument(name: str, dialect: str, level: float, sign: int, side: int) -> float:
    """Returns what an operation does at a level.

    It is degrees of rotate, bits that posterize keeps, the threshold of solarize, the addend of solarize_add,
    the blending factor of color, contrast, brightness and sharpness (1 changes nothing), the slope of a
    shear, px of a translation, half the side of cutout; 0 for the rest.

    Args:
        name: one of `TPU` or `TIMM`.
        dialect: tpu or timm.
        level: strength, 0 to 10; more with tpu.
        sign: 1 or -1, where there are two directions.
        side: of the image, px, for timm's translations.
    """
    share = level / MAX_LEVEL
    if name in _ENHANCE:
        return share * 1.8 + 0.1 if dialect == "tpu" else max(0.1, 1 + sign * share * 0.9)
    if name in ("posterize", "solarize"):
        most = 4 if name == "posterize" else 256
        return int(share * most) if dialect == "tpu" else most - int(share * most)
    if name in ("translate_x", "translate_y"):
        return sign * share * (100 if dialect == "tpu" else 0.45 * side)
    slopes = {"rotate": sign * 30 * share, "shear_x": sign * 0.3 * share, "shear_y": sign * 0.3 * share}
    return {**slopes, "solarize_add": int(110 * share), "cutout": int(40 * share)}.get(name, 0.0)


def operate(
    image: Image.Image, name: str, value: float, paint: Paint, place: tuple[float, float]
) -> Image.Image:
    """Returns the image after one operation.

    Args:
        image: L or RGB.
        name: one of `TPU`.
        value: from `argument`.
        paint: for what moves.
        place: (down, right) in [0, 1), the centre of cutout.
    """
    if name in _ENHANCE:
        return _ENHANCE[name](image).enhance(value)
    if name in _BY_VALUE:
        return _BY_VALUE[name](image, int(value))
    if name == "rotate":
        return image.rotate(value, paint.resample, fillcolor=paint.fill)
    if name == "cutout":
        return _cutout(image, int(value), paint, place)
    # output (x, y) is looked up at (a x + b y + c, d x + e y + f)
    matrix = {
        "shear_x": (1, value, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, value, 1, 0),
        "translate_x": (1, 0, value, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, value),
    }[name]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, paint.resample, fillcolor=paint.fill)


def color_jitter(image: Image.Image, share: float, uniform: np.ndarray) -> Image.Image:
    """Returns an image of changed brightness, contrast and saturation, as torchvision's ColorJitter.

    Each factor is uniform in [1 - share, 1 + share], not below 0, and their order is random.

    Args:
        image: L or RGB.
        share: largest change.
        uniform: f64[6] in [0, 1).
    """
    names = ("brightness", "contrast", "color")
    low = max(0.0, 1 - share)
    for i in np.argsort(uniform[3:6], kind="stable"):
        image = _ENHANCE[names[i]](image).enhance(low + (1 + share - low) * float(uniform[i]))
    return image


def _posterize(image: Image.Image, bits: int) -> Image.Image:
    """Returns the image with the upper bits of every value, 0 to 8; ImageOps refuses 0, which timm draws."""
    mask = 256 - (1 << (8 - min(bits, 8)))
    return image.point([i & mask for i in range(256)] * len(image.getbands()))


def _solarize_add(image: Image.Image, addend: int) -> Image.Image:
    table = [min(255, i + addend) if i < 128 else i for i in range(256)]
    return image.point(table * len(image.getbands()))


def _cutout(image: Image.Image, half: int, paint: Paint, place: tuple[float, float]) -> Image.Image:
    """Returns the image with a filled square of side 2 * half around a random pixel, cut at the border."""
    y, x = int(place[0] * image.height), int(place[1] * image.width)
    image = image.copy()
    image.paste(
        paint.fill,
        (max(0, x - half), max(0, y - half), min(image.width, x + half), min(image.height, y + half)),
    )
    return image


def paint_of(dialect: str, interpolation: str, mode: str) -> Paint:
    """Returns how a dialect paints images of Pillow's mode L or RGB."""
    fill, resample = (128, 128, 128), Image.Resampling.NEAREST
    if dialect == "timm":
        fill = (124, 116, 104)  # ImageNet's mean
        resample = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    luma = (299 * fill[0] + 587 * fill[1] + 114 * fill[2]) // 1000
    return Paint(fill if mode == "RGB" else luma, resample)


_BY_VALUE: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "auto_contrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
    "posterize": _posterize,
    "solarize": lambda image, threshold: ImageOps.solarize(image, threshold),
    "solarize_add": _solarize_add,
}
