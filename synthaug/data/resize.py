"""Images to a smaller square: the filters that `data.resize` names.

| filter | what it does | same bits as |
|---|---|---|
| `area` | central square, then the exact mean over each output pixel's area | our own, the same on every machine |
| `adm` | halve by box while the short side is >= 2 x size, bicubic to short side = size, central square | guided-diffusion's and EDM2's ImageNet (their center_crop_arr), with Pillow's decoder |
| `cas` | bicubic to short side round(256/224 x size), then the central square | torchvision's Resize(256, BICUBIC), CenterCrop(224), with Pillow's decoder |

Pillow's decoder and tensorflow's differ by a few units in most JPEGs (chroma upsampling and the inverse DCT),
so that with `decoder: tensorflow` all three are the same arithmetic on slightly other pixels: no tool's bits.
TensorFlow's own pipelines resize in floats (tf.image.resize), which no filter here reproduces. PNG, BMP and
lossless WebP decode alike in both. No filter decodes a JPEG at a reduced size (libjpeg's scaling in the DCT):
it is faster, and gives other pixels.
"""  # noqa: E501 (a table)

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image

from synthaug.data.images import MAX_PIXELS
from synthaug.errors import DataError

_CAS_RATIO = (256, 224)  # short side : crop, of the paper's classifiers and of nearly everyone's
_GROUP = 4  # output rows per matrix product: fewer have less to multiply by zero, more have less overhead
# What lies between is kept small: it stays in the cache, and no thread takes megabytes from the system for
# every image and gives them back, which costs five times as much as the sums.
_BAND = 8  # groups at a time, or fewer, of
_CHUNK = 1 << 19  # values in all


def crop_square(image: np.ndarray) -> np.ndarray:
    """Returns the central square u8[S,S,C] of u8[H,W,C]; an odd remainder is lost at the end."""
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def resize_adm(image: np.ndarray, size: int) -> np.ndarray:
    """Returns an image as guided-diffusion prepares it, u8[size,size,C]: bit for bit, with Pillow's decoder.

    Args:
        image: u8[H,W,C], C = 1 or 3.
        size: side of the result in px.
    """
    picture = _picture(image)
    while min(picture.size) >= 2 * size:
        width, height = picture.size
        picture = picture.resize((width // 2, height // 2), resample=Image.Resampling.BOX)
    scale = size / min(picture.size)
    width, height = picture.size
    target = (round(width * scale), round(height * scale))
    pixels = _pixels(picture.resize(target, resample=Image.Resampling.BICUBIC))
    top, left = (target[1] - size) // 2, (target[0] - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def resize_cas(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the view of an image that classifiers are evaluated on, u8[size,size,C].

    Pillow's bicubic makes the short side `cas_short_side(size)` px and the long side, rounded down, in
    proportion; then the central square is cut out.

    Args:
        image: u8[H,W,C], C = 1 or 3.
        size: side of the result in px.
    """
    picture, short = _picture(image), cas_short_side(size)
    width, height = picture.size
    side = min(width, height)
    target = (short * width // side, short * height // side)
    pixels = _pixels(picture.resize(target, resample=Image.Resampling.BICUBIC))
    # torchvision rounds half of an odd border to even
    top, left = round((target[1] - size) / 2), round((target[0] - size) / 2)
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def check_shape(height: int, width: int, size: int) -> None:
    """Checks that an image does not become huge when its short side becomes `size` px, before it is cut.

    Raises:
        DataError: it is a bomb, a strip of few pixels in one direction.
    """
    long = size * max(height, width) // min(height, width)
    if long * size > MAX_PIXELS:
        raise DataError(f"is {width} x {height} px: at {size} px its long side would have {long}; cut it")


def cas_short_side(size: int) -> int:
    """Returns the short side that `cas` resizes to before it crops: 256 for 224, in proportion for others.

    Example:
        >>> cas_short_side(224), cas_short_side(256), cas_short_side(64)
        (256, 293, 73)
    """
    return round(size * _CAS_RATIO[0] / _CAS_RATIO[1])


def shrink_area(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the central square of an image, averaged over areas, as u8[size,size,C].

    Each output pixel is the mean of the input over its square, pixels on the border weighted by the part
    inside: exact for any ratio, enlarging included. Sums are integers, so the result is the correctly
    rounded (half to even) true mean, the same on every machine.

    Args:
        image: u8[H,W,C].
        size: side of the result in px.

    Example:
        >>> shrink_area(np.array([[0, 1], [1, 0], [9, 9]], np.uint8)[:, :, None], 1).item()
        0
    """
    square = crop_square(image)
    side, _, channels = square.shape
    if side == size:
        return np.ascontiguousarray(square)
    pixels = np.ascontiguousarray(square).reshape(side, -1)
    rows, weights = _area_weights(side, size, np.float32)
    step = max(1, min(_BAND, _CHUNK // (rows.shape[1] * pixels.shape[1])))
    result = np.empty((size, size, channels), np.uint8)
    for group in range(0, len(rows), step):
        some = slice(group, group + step)
        # floats that hold integers: down the rows sums stay below 255 * side < 2**24, exact in f32
        sums = np.matmul(weights[some], pixels[rows[some]].astype(np.float32)).reshape(-1, side, channels)
        result[group * _GROUP : (group + step) * _GROUP] = _mean_across(sums[: size - group * _GROUP], size)
    return result


def _mean_across(sums: np.ndarray, size: int) -> np.ndarray:
    """Returns u8[M,size,C]: the rounded means over areas of f32[M,S,C], each the sum of S values."""
    count, side, channels = sums.shape
    columns = np.empty((side, channels, count))
    for c in range(channels):  # a channel at a time: numpy moves runs of 3 values slowly
        columns[:, c] = sums[:, :, c].T
    rows, weights = _area_weights(side, size, np.float64)
    # below 255 * side**2 < 2**53, exact in f64, in whatever order they are added
    whole = np.matmul(weights, columns.reshape(side, -1)[rows]).reshape(-1, channels, count)[:size]
    return np.rint(whole / side**2).astype(np.uint8).transpose(2, 0, 1)


@functools.lru_cache(maxsize=512)
def _area_weights(side: int, size: int, dtype: type[np.floating]) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows i64[G,W] and weights [G,_GROUP,W]: the sums of group g are weights[g] @ x[rows[g]]."""
    groups = -(-size // _GROUP)
    # row i covers [i size, (i + 1) size), output o covers [o side, (o + 1) side)
    low = np.arange(groups * _GROUP).reshape(groups, _GROUP) * side
    window = min(side, int((-(-(low[:, -1] + side) // size) - low[:, 0] // size).max()))
    first = np.minimum(low[:, 0] // size, side - window)
    rows = first[:, None] + np.arange(window)
    start = rows[:, None, :] * size
    high = np.minimum(start + size, low[:, :, None] + side)
    weights = np.clip(high - np.maximum(start, low[:, :, None]), 0, None)
    return rows, weights.astype(dtype)


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _pixels(picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


FILTERS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "area": shrink_area,
    "adm": resize_adm,
    "cas": resize_cas,
}
"""The filters by their names in the settings: (u8[H,W,C], size) -> u8[size,size,C]."""


def _stretch(image: np.ndarray, size: int, filter: Image.Resampling) -> np.ndarray:
    return np.ascontiguousarray(_pixels(_picture(image).resize((size, size), resample=filter)))


PILLOW: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "pillow-box": functools.partial(_stretch, filter=Image.Resampling.BOX),
    "pillow-bilinear": functools.partial(_stretch, filter=Image.Resampling.BILINEAR),
    "pillow-bicubic": functools.partial(_stretch, filter=Image.Resampling.BICUBIC),
    "pillow-lanczos": functools.partial(_stretch, filter=Image.Resampling.LANCZOS),
}
"""Pillow's own resize of the whole image to size x size, whatever its shape, as other tools measure with."""
