"""Boxes of JPEGs by tensorflow, which decodes and resizes only what lies inside, as Cloud TPU's ResNet does.

The centres of pixels are half-pixel ones (TF2's; Cloud TPU's code has TF1's corners). Its bicubic filter
always looks at 4 x 4 pixels, also where the image shrinks, while Pillow's becomes wider. Random boxes of
photos of 500 x 400 px seen at 224 px by the two differ by some 3 units on average, 99 % of the values by
less than 13: most by the filter, some by the fast cosine transform, tensorflow's default: with the accurate
one its pixels are Pillow's, bit for bit. Whole files, as in evaluation, are decoded in the same way.

One graph call does a whole batch, so that no thread waits for Python. What was tried, by CPU time per image
of 500 x 400 (a busy machine, medians of paired rounds): this 1.07 ms; `map_fn` 1.13, unrolled or not;
several `MapDefun` that go through their rows in one thread each 1.02, but batches took twice as long on a
busy machine; eager operations from threads 1.2 to 1.5; with `Reverse` instead of a branch + 0.15;
`saturate_cast` instead of `QuantizeV2` + 0.1; chroma by repetition - 0.02; INTEGER_FAST - 0.01; Pillow 1.8
(decoding all of it 0.9, its wider filter 0.8), with reducing_gap the same, with draft nothing to gain below
2 x 224 px; tensorflow's decoder with Pillow's filter 1.75; tensorflow's ScaleAndTranslate, which widens, 1.5
for the filter alone. Of it 0.65 are Huffman codes and pixels, 0.35 the bicubic filter; rows below the box
are not decoded already.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from synthaug.data import images
from synthaug.errors import DataError


def jpeg_shape(data: bytes) -> tuple[int, int] | None:
    """Returns (height, width) of a grey or colour JPEG; None for anything else, CMYK and torn files too."""
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # a frame header
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            fits = data[at + 9] in (1, 3) and 0 < height * width <= images.MAX_PIXELS
            return (height, width) if fits else None
        # 0xFF in front of a marker is padding
        at += 1 if kind == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def cut_jpegs(
    files: Sequence[bytes],
    boxes: np.ndarray,
    mirrored: np.ndarray,
    *,
    size: int,
    channels: int,
    interpolation: str,
) -> np.ndarray:
    """Returns u8[n,size,size,channels], boxes of n JPEGs.

    Args:
        files: contents of grey or colour JPEGs.
        boxes: i32[n,4], (top, left, height, width) in px.
        mirrored: bool[n], left to right.
        size: side of the result, px.
        channels: 1 or 3.
        interpolation: bilinear or bicubic.

    Raises:
        DataError: one of them is torn.
    """
    tf = images.load_tensorflow()
    cut = _graph(size, channels, interpolation)
    try:
        seen = cut(tf.constant(files), tf.constant(boxes), tf.constant(mirrored))
    except tf.errors.InvalidArgumentError as error:
        raise DataError(f"cannot be decoded ({str(error).splitlines()[0][:200]})") from None
    return np.asarray(memoryview(seen))  # unlike numpy(), no copy


def resize(image: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Returns u8[H,W,C] as u8[size,size,C], by the filter of `cut_jpegs`."""
    tf = images.load_tensorflow()
    return _resized(tf, tf.constant(image), size, interpolation).numpy()


@functools.cache
def _graph(size: int, channels: int, interpolation: str) -> Callable[..., Any]:
    tf = images.load_tensorflow()

    def one(data: Any, box: Any, mirrored: Any) -> Any:
        part = tf.raw_ops.DecodeAndCropJpeg(contents=data, crop_window=box, channels=channels)
        seen = _resized(tf, part, size, interpolation)
        return tf.cond(mirrored, lambda: tf.reverse(seen, [1]), lambda: seen)

    row = (tf.TensorSpec([], tf.string), tf.TensorSpec([4], tf.int32), tf.TensorSpec([], tf.bool))
    concrete = tf.function(one, input_signature=row).get_concrete_function()

    def every(files: Any, boxes: Any, mirrored: Any) -> Any:
        return tf.raw_ops.MapDefun(
            arguments=[files, boxes, mirrored],
            captured_inputs=[],
            output_types=[tf.uint8],
            output_shapes=[[size, size, channels]],
            f=concrete,
            max_intra_op_parallelism=0,  # any thread takes any row
        )[0]

    specs = [tf.TensorSpec([None, *one.shape], one.dtype) for one in row]
    return tf.function(every, input_signature=specs)


def _resized(tf: Any, image: Any, size: int, interpolation: str) -> Any:
    kind = tf.raw_ops.ResizeBicubic if interpolation == "bicubic" else tf.raw_ops.ResizeBilinear
    values = kind(images=tf.expand_dims(image, 0), size=[size, size], half_pixel_centers=True)[0]
    # clips, rounds and converts in one pass
    coded = tf.raw_ops.QuantizeV2(
        input=values,
        min_range=0.0,
        max_range=255.0,
        T=tf.quint8,
        mode="MIN_COMBINED",
        round_mode="HALF_AWAY_FROM_ZERO",
    )[0]
    return tf.bitcast(coded, tf.uint8)
