"""Image files and pixels: decode, encode, shrink. The one place that knows Pillow and tensorflow.

How unusual files become u8[H,W,C]: an alpha channel is composed over white; grey becomes three equal
channels, colour becomes ITU-R 601 luma; 16 bits keep the high byte; CMYK is converted by the decoder;
of an animation the first frame counts; an EXIF orientation is not applied.
"""

from __future__ import annotations

import functools
import io
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from synthaug.errors import DataError

MAX_PIXELS = 89_478_485  # pixels; a quarter of a gigabyte in RGB, the limit Pillow warns at

Array = TypeVar("Array", bound=Any)  # numpy or jax


def to_float(image: Array) -> Array:
    """Returns u8 pixels as f32 in [-1, 1]; numpy and jax alike.

    Example:
        >>> to_float(np.array([0, 255], np.uint8)).tolist()
        [-1.0, 1.0]
    """
    return image.astype("float32") / 127.5 - 1.0


def to_u8(image: Array) -> Array:
    """Returns f32 pixels in [-1, 1] as u8, rounded and clipped: the inverse of `to_float`.

    Example:
        >>> to_u8(np.array([-1.5, 0.0, 1.0], np.float32)).tolist()
        [0, 128, 255]
    """
    return ((image + 1.0) * 127.5).round().clip(0, 255).astype("uint8")


def encode_png(image: np.ndarray) -> bytes:
    """Returns a u8[H,W,C] image, C = 1 or 3, as PNG: lossless, and equal pixels give equal bytes.

    Raises:
        ValueError: another shape or dtype.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
        raise ValueError(
            f"encode_png: got {image.dtype}{list(image.shape)}; expected u8[H,W,1] or u8[H,W,3]."
        )
    buffer = io.BytesIO()
    pixels = np.ascontiguousarray(image[:, :, 0] if image.shape[2] == 1 else image)
    # a fixed level and no metadata: the bytes of a shard are part of its identity
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=6, optimize=False)
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """Returns u8[H,W,C] of a PNG from `encode_png`, with its own number of channels.

    Raises:
        DataError: the bytes are no such PNG.
    """
    pixels = _decode_pillow(data)
    if pixels.shape[2] not in (1, 3):
        raise DataError(f"PNG: has {pixels.shape[2]} channels; expected 1 or 3: the file was altered.")
    return pixels


def decode(data: bytes, channels: int, decoder: str) -> np.ndarray:
    """Returns the pixels of an image file as u8[H,W,channels].

    Args:
        data: content of a PNG, JPEG, WebP or BMP file.
        channels: 1 or 3.
        decoder: "pillow" or "tensorflow". Of JPEG they differ by a few units, of a PNG only where a colour
            of a palette-less image is declared transparent: tensorflow shows it.

    Raises:
        DataError: the bytes are torn, no image, or more than `MAX_PIXELS`.
    """
    pixels = _decode_tensorflow(data) if decoder == "tensorflow" else _decode_pillow(data)
    return _with_channels(pixels, channels)


def _decode_pillow(data: bytes) -> np.ndarray:
    """Returns u8[H,W,C] with C = 1 grey, 2 grey + alpha, 3 colour, 4 colour + alpha."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(*image.size)
            image.load()
            return _pixels(image)
    except Exception as error:  # a torn file makes Pillow raise nearly anything, SyntaxError included
        raise _undecodable(error) from None


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit grey
        wide = np.asarray(image).astype(np.int64)
        return (wide >> 8).clip(0, 255).astype(np.uint8)[:, :, None]
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif "transparency" in image.info and image.mode in ("1", "L", "RGB"):
        image = image.convert("LA" if image.mode != "RGB" else "RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGBA" if image.mode in ("PA", "RGBa") else "RGB")
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _decode_tensorflow(data: bytes) -> np.ndarray:
    tf = _tensorflow()
    try:
        header = Image.open(io.BytesIO(data))  # reads the size only: tensorflow would allocate first
        _check_size(*header.size)
        pixels = tf.io.decode_image(data, expand_animations=False).numpy()
    except Exception as error:  # as many kinds as tensorflow has decoders
        raise _undecodable(error) from None
    return pixels


@functools.cache
def _tensorflow() -> ModuleType:
    import tensorflow as tf  # 9 s; and it would take all GPU memory from jax if it saw a GPU

    tf.config.set_visible_devices([], "GPU")
    return tf


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"is {width} x {height} px; expected at most {MAX_PIXELS} pixels in all")


def _undecodable(error: Exception) -> DataError:
    """Returns a one-line error that is the same in every run: Pillow's own text holds an address."""
    if isinstance(error, DataError):
        return error
    lines = str(error).strip().splitlines()
    why = lines[0][:200] if lines else type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        why = "no known image format"
    return DataError(f"cannot be decoded ({why})")


def _with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Returns u8[H,W,channels] from 1 grey, 2 grey + alpha, 3 colour or 4 colour + alpha channels."""
    if pixels.shape[2] in (2, 4):
        colour, alpha = pixels[:, :, :-1].astype(np.uint32), pixels[:, :, -1:].astype(np.uint32)
        pixels = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    if channels == 3 and pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if channels == 1 and pixels.shape[2] == 3:
        # ITU-R 601-2 in 16-bit fixed point, as Pillow's convert("L")
        weights = np.array([19595, 38470, 7471], np.uint32)
        luma = (pixels.astype(np.uint32) * weights).sum(axis=2, keepdims=True, dtype=np.uint32)
        return ((luma + 0x8000) >> 16).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def crop_square(image: np.ndarray) -> np.ndarray:
    """Returns the central square u8[S,S,C] of u8[H,W,C]; an odd remainder is lost at the end."""
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


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
    side = square.shape[0]
    if side == size:
        return np.ascontiguousarray(square)
    sums = _area_sums(_area_sums(square, size).swapaxes(0, 1), size).swapaxes(0, 1)
    return np.rint(sums / side**2).astype(np.uint8)


def _area_sums(x: np.ndarray, size: int) -> np.ndarray:
    """Returns i64[size,...]: integrals of x[S,...] over `size` equal parts, each row being `size` long."""
    side = x.shape[0]
    integral = np.zeros((side + 1, *x.shape[1:]), np.int64)
    np.cumsum(x, axis=0, dtype=np.int64, out=integral[1:])
    whole, part = np.divmod(np.arange(size + 1) * side, size)
    part = part.reshape(-1, *(1 for _ in x.shape[1:]))
    row = x[np.minimum(whole, side - 1)].astype(np.int64)  # at the end `part` is 0: any row will do
    return np.diff(integral[whole] * size + part * row, axis=0)
