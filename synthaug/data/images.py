"""Image files and pixels: decode and encode. The one place that knows tensorflow.

How unusual files become u8[H,W,C]: an alpha channel is composed over white; grey becomes three equal
channels, colour becomes ITU-R 601 luma; 16 bits keep the high byte; CMYK (22 files of ImageNet) is
always decoded and converted by Pillow; of an animation the first frame counts; an EXIF orientation is not
applied, as in all published work on ImageNet.
"""

from __future__ import annotations

import collections
import functools
import io
import struct
import zlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from synthaug.errors import DataError

MAX_PIXELS = 89_478_485  # pixels; a quarter of a gigabyte in RGB, the limit Pillow warns at
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")  # no others: Pillow would hand PostScript to Ghostscript

_PNG_START = b"\x89PNG\r\n\x1a\n"
_STARTS = {"JPEG": b"\xff\xd8\xff", "PNG": _PNG_START, "WEBP": b"RIFF", "BMP": b"BM", "GIF": b"GIF8"}

Array = TypeVar("Array", bound=Any)  # numpy or jax
T = TypeVar("T")


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
    height, width, channels = image.shape
    rows = np.ascontiguousarray(image).reshape(height, width * channels)
    colour = 2 if channels == 3 else 0
    # the level and the strategy are fixed and there is no metadata: a shard's bytes are part of its identity.
    # Matches within photos are rare, so looking for runs alone costs a tenth of zlib's search and no size.
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    packed = deflate.compress(_filter_average(rows, channels).data) + deflate.flush()
    start = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = ((b"IHDR", start), (b"IDAT", packed), (b"IEND", b""))
    return _PNG_START + b"".join(_png_chunk(name, data) for name, data in chunks)


def _filter_average(rows: np.ndarray, channels: int) -> np.ndarray:
    """Returns u8[H,1+W*C]: each byte less the mean of those to the left and above (PNG's filter type 3)."""
    left, above = np.zeros_like(rows), np.zeros_like(rows)
    left[:, channels:], above[1:] = rows[:, :-channels], rows[:-1]
    filtered = np.empty((rows.shape[0], 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 3
    mean = (left & above) + ((left ^ above) >> 1)  # rounded down, within a byte
    np.subtract(rows, mean, out=filtered[:, 1:])  # wraps around, as PNG's does
    return filtered


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def decode_png(data: bytes) -> np.ndarray:
    """Returns u8[H,W,C] of a PNG from `encode_png`, with its own number of channels.

    Raises:
        DataError: the bytes are no such PNG.
    """
    pixels = _decode_pillow(data)
    if pixels.shape[2] not in (1, 3):
        raise DataError(f"PNG: has {pixels.shape[2]} channels; expected 1 or 3: the file was altered.")
    return pixels


def format_of(data: bytes) -> str:
    """Returns the format of an image file by its content, e.g. "JPEG"; "" if it is none that we know.

    Example:
        >>> format_of(encode_png(np.zeros((1, 1, 1), np.uint8)))
        'PNG'
    """
    for name, start in _STARTS.items():
        if data.startswith(start):
            return "" if name == "WEBP" and data[8:12] != b"WEBP" else name
    return ""


def shares(counts: Mapping[str, int]) -> str:
    """Returns the shares of codecs in words, the largest first; "unknown" of nothing.

    Example:
        >>> shares({"png": 1, "jpeg": 9, "raw": 0})
        'jpeg 90 %, png 10 %'
    """
    known = collections.Counter(counts)
    total = known.total()
    found = [(name, n) for name, n in known.most_common() if n]
    return ", ".join(n if k == total else f"{n} {100 * k / total:.3g} %" for n, k in found) or "unknown"


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
    return with_channels(pixels, channels)


class Unclear(DataError):
    """A whole image whose u8 pixels depend on who reads it."""


def decode_exact(data: bytes) -> np.ndarray:
    """Returns the pixels of an image file as `decode_opaque` does, without a word about alpha."""
    return decode_opaque(data)[0]


def decode_opaque(data: bytes) -> tuple[np.ndarray, bool]:
    """Returns u8[H,W,C] by Pillow, C = 1 grey or 3 colour, for measurements, and whether alpha was dropped.

    What tools decode alike, give or take their JPEG decoder: nothing is composed, rounded or turned.

    Raises:
        Unclear: it has transparent pixels or 16 bits per channel; opaque alpha is dropped.
        DataError: as `decode`.
    """
    if not data:
        raise DataError("is empty (0 bytes)")
    if data.startswith(_PNG_START) and data[24:25] == b"\x10":
        raise Unclear("has 16 bits per channel; expected 8")
    pixels = _decode_pillow(data)
    alpha = pixels.shape[2] in (2, 4)
    if alpha:
        if pixels[:, :, -1].min() < 255:
            raise Unclear("has transparent pixels; expected none")
        pixels = pixels[:, :, :-1]
    return np.ascontiguousarray(pixels), alpha


def size_of(data: bytes, decoder: str) -> tuple[int, int]:
    """Returns the height and width of an image file, all of which is decoded to see that it can be.

    Raises:
        DataError: as `decode`.
    """
    if decoder == "tensorflow":
        height, width, _ = _decode_tensorflow(data).shape
        return height, width
    return _with_pillow(data, lambda image: (image.height, image.width))


def _decode_pillow(data: bytes) -> np.ndarray:
    """Returns u8[H,W,C] with C = 1 grey, 2 grey + alpha, 3 colour, 4 colour + alpha."""
    return _with_pillow(data, _pixels)


def _with_pillow(data: bytes, read: Callable[[Image.Image], T]) -> T:
    """Returns what `read` finds in the decoded image."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            image.load()
            return read(image)
    except MemoryError:
        raise  # ours, not the file's
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
    tf = load_tensorflow()
    try:
        header = Image.open(
            io.BytesIO(data), formats=FORMATS
        )  # reads the size only: tensorflow would allocate first
        _check_size(*header.size)
        if header.mode == "CMYK":
            return _decode_pillow(data)  # inks without Adobe's mark, tensorflow takes for their negative
        pixels = tf.io.decode_image(data, expand_animations=False).numpy()
    except Exception as error:  # as many kinds as tensorflow has decoders
        raise _undecodable(error) from None
    return pixels


@functools.cache
def load_tensorflow() -> ModuleType:
    """Returns tensorflow, which sees no GPU; synthaug.data.jpeg takes it from here, too."""
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
    if isinstance(error, Image.DecompressionBombError):  # raised by Pillow before anybody knows the size
        return DataError(f"has far too many pixels; expected at most {MAX_PIXELS} in all")
    lines = str(error).strip().splitlines()
    why = lines[0][:200] if lines else type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        why = "no known image format"
    return DataError(f"cannot be decoded ({why})")


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
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
