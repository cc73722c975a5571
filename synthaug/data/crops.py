"""What part of an image a network sees: boxes, and resizing of what lies in them.

The decoder decides whose rules hold: "pillow" resizes and cuts centres as torchvision does with Pillow,
"tensorflow" as Cloud TPU's ResNet (see synthaug.data.jpeg). Random boxes are the same with both.
"""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from synthaug.data import images, jpeg
from synthaug.data.resize import shrink_area
from synthaug.errors import DataError
from synthaug.experiment import View

TRIES = 10  # boxes that random_box draws before it takes the central one
NUM_UNIFORM = 4 * TRIES
ASPECT = (3 / 4, 4 / 3)  # width / height, as in torchvision and in Cloud TPU's ResNet

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Box(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


def random_box(height: int, width: int, min_area: float, uniform: np.ndarray) -> Box:
    """Returns a box of random place, area and aspect (Szegedy et al. 2015), as torchvision draws it.

    Its area is uniform in [min_area, 1] of the image's, its aspect log-uniform in [3/4, 4/3]; the first of
    ten such boxes that fits inside is taken, else the largest central one of the nearest allowed aspect.
    (tensorflow's sample_distorted_bounding_box, in Cloud TPU's ResNet, draws the height uniformly instead.)

    Args:
        height: of the image, px.
        width: of the image, px.
        min_area: share of the image's area.
        uniform: f64[40] in [0, 1).
    """
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    for area, aspect, down, right in uniform.reshape(TRIES, 4).tolist():
        pixels = (min_area + (1 - min_area) * area) * height * width
        ratio = math.exp(low + (high - low) * aspect)
        tall, wide = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < tall <= height and 0 < wide <= width:
            return Box(int(down * (height - tall + 1)), int(right * (width - wide + 1)), tall, wide)
    tall, wide = min(height, round(width / ASPECT[0])), min(width, round(height * ASPECT[1]))
    return Box((height - tall) // 2, (width - wide) // 2, tall, wide)


def central_square(height: int, width: int, share: float) -> Box:
    """Returns the central square whose side is a share of the short side, as Cloud TPU's ResNet cuts it.

    Example:
        >>> central_square(256, 300, 0.875)
        Box(top=16, left=38, height=224, width=224)
    """
    side = max(1, int(share * min(height, width)))
    return Box((height - side + 1) // 2, (width - side + 1) // 2, side, side)


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    """Returns u8[h,w,C], the part of u8[H,W,C] inside a box."""
    return image[box.top : box.top + box.height, box.left : box.left + box.width]


def cut_file(data: bytes, box: Box, size: int, channels: int, interpolation: str) -> np.ndarray:
    """Returns a box of an image file as u8[size,size,channels] by Pillow: no pixel is copied in vain.

    Raises:
        DataError: the file is torn.
    """
    mode = "RGB" if channels == 3 else "L"
    with Image.open(io.BytesIO(data)) as image:
        if image.mode != mode:
            pixels = cut(images.decode(data, channels, "pillow"), box)
            return resize(pixels, size, interpolation, "pillow")
        corners = (box.left, box.top, box.left + box.width, box.top + box.height)
        try:
            part = image.crop(corners)
        except Exception as error:  # a torn file makes Pillow raise nearly anything
            raise DataError(f"cannot be decoded ({str(error).splitlines()[0][:200]})") from None
    return from_pillow(part.resize((size, size), _FILTERS[interpolation]))


def resize(image: np.ndarray, size: int, interpolation: str, decoder: str) -> np.ndarray:
    """Returns all of u8[H,W,C] as u8[size,size,C], by the filter of a decoder."""
    if image.shape[:2] == (size, size):
        return np.ascontiguousarray(image)
    if decoder == "tensorflow":
        return jpeg.resize(image, size, interpolation)
    return from_pillow(to_pillow(image).resize((size, size), _FILTERS[interpolation]))


def central(image: np.ndarray, size: int, ratio: float, interpolation: str, decoder: str) -> np.ndarray:
    """Returns the centre u8[size,size,C] of u8[H,W,C] whose short side became size / ratio.

    With Pillow as torchvision's Resize and CenterCrop (Pillow keeps the place in f32, so that 1 % of the
    values are rounded otherwise, by 1), but only the centre is computed.
    """
    height, width, _ = image.shape
    if decoder == "tensorflow":
        return resize(cut(image, central_square(height, width, ratio)), size, interpolation, decoder)
    short = int(size / ratio + 1e-3)  # cut off as in timm and DeiT: 438 for 384 px; 224 for 0.8571429 of 192
    if height <= width:
        tall, wide = short, int(short * width / height)
    else:
        tall, wide = int(short * height / width), short
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    if (tall, wide) == (height, width):
        return np.ascontiguousarray(cut(image, Box(top, left, size, size)))
    down, right = height / tall, width / wide
    box = (left * right, top * down, (left + size) * right, (top + size) * down)
    return from_pillow(to_pillow(image).resize((size, size), _FILTERS[interpolation], box=box))


def train_pixels(image: np.ndarray, view: View, uniform: np.ndarray | None, decoder: str) -> np.ndarray:
    """Returns the u8[S,S,C] that a network sees of u8[H,W,C] in training, before colours change.

    Args:
        image: the whole image.
        view: what is seen of it; S is its size, or the image's own.
        uniform: f64[40] in [0, 1), for crop = random_resized.
        decoder: pillow or tensorflow: whose rules.
    """
    if uniform is not None:
        height, width, _ = image.shape
        box = random_box(height, width, view.min_area, uniform)
        return resize(cut(image, box), view.size or min(height, width), view.interpolation, decoder)
    if not view.size:
        return image
    ratio = view.eval_ratio if view.crop == "center" else 1.0
    return central(image, view.size, ratio, view.interpolation, decoder)


def eval_pixels(image: np.ndarray, view: View, decoder: str) -> np.ndarray:
    """Returns the u8[S,S,C] that a network sees of u8[H,W,C] in evaluation: its centre.

    S is the view's eval_size, or its size, or with neither the image stays as it is.
    """
    size = view.eval_size or view.size
    return central(image, size, view.eval_ratio, view.interpolation, decoder) if size else image


def shrunk(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the image averaged over areas down to a side, if it is larger; size 0 = as it is."""
    return shrink_area(image, size) if 0 < size < min(image.shape[:2]) else image


def to_pillow(image: np.ndarray) -> Image.Image:
    """Returns u8[H,W,C], C = 1 or 3, as Pillow's L or RGB."""
    return Image.fromarray(np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 1 else image))


def from_pillow(image: Image.Image) -> np.ndarray:
    """Returns an L or RGB image as u8[H,W,C]."""
    pixels = np.array(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
