"""The filters of `data.resize`, against rational arithmetic and independent transcriptions."""

from __future__ import annotations

import fractions
import tracemalloc

import hypothesis
import numpy as np
import PIL.Image
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from synthaug.data import resize
from synthaug.experiment.data import FILTERS

U8_IMAGES = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3])), fill=st.nothing()
)
SHAPES = [(400, 500), (375, 500), (500, 333), (64, 64), (127, 129), (128, 128), (31, 200), (1, 3), (513, 255)]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def exact_area(image: np.ndarray, size: int) -> np.ndarray:
    """The mean over each output pixel's square in rational numbers, rounded half to even."""
    square = resize.crop_square(image)
    side, scale = len(square), fractions.Fraction(len(square), size)

    def overlap(o: int, i: int) -> fractions.Fraction:
        return max(fractions.Fraction(0), min((o + 1) * scale, i + 1) - max(o * scale, i))

    weight = [[overlap(o, i) for i in range(side)] for o in range(size)]
    result = np.empty((size, size, image.shape[2]), np.uint8)
    for y, x, c in np.ndindex(result.shape):
        total = sum(
            weight[y][i] * weight[x][j] * int(square[i, j, c]) for i in range(side) for j in range(side)
        )
        result[y, x, c] = round(total / scale**2)
    return result


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 8)] * 2, st.just(1))), st.integers(1, 9))
def test_area_is_the_exact_mean(image, size):
    assert np.array_equal(resize.shrink_area(image, size), exact_area(image, size))


def test_area_asks_for_little_memory():
    """Megabytes an image, which threads take from the system and give back, cost more than the sums."""
    for shape, size in (((400, 500, 3), 256), ((400, 500, 3), 64), ((3000, 3000, 3), 64)):
        image = noise(*shape)
        resize.shrink_area(image, size)
        tracemalloc.start()
        resize.shrink_area(image, size)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 * image.size + 3_000_000, (shape, size, peak)


def integer_area(image: np.ndarray, size: int) -> np.ndarray:
    """The same in 64-bit integers, by integrals of the rows: slow, and exact at any size."""

    def sums(x: np.ndarray) -> np.ndarray:
        side = len(x)
        integral = np.concatenate(
            [np.zeros((1, *x.shape[1:]), np.int64), np.cumsum(x, axis=0, dtype=np.int64)]
        )
        whole, part = np.divmod(np.arange(size + 1) * side, size)
        row = x[np.minimum(whole, side - 1)].astype(np.int64)
        return np.diff(integral[whole] * size + part[:, None, None] * row, axis=0)

    square = resize.crop_square(image)
    total = sums(sums(square).swapaxes(0, 1)).swapaxes(0, 1)
    return np.rint(total / len(square) ** 2).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 8, 63, 64, 224, 256])
def test_area_is_exact_for_images_of_real_size(shape, size):
    for image in (noise(*shape, 3), np.full((*shape, 3), 255, np.uint8)):
        assert np.array_equal(resize.shrink_area(image, size), integer_area(image, size))


def test_area_of_a_very_large_image_is_exact():
    image = np.full((3001, 3000, 1), 255, np.uint8)  # the largest sums
    image[::7] = 254
    assert np.array_equal(resize.shrink_area(image, 64), integer_area(image, 64))


def test_area_rounds_half_to_even():
    assert resize.shrink_area(np.array([[0, 1], [1, 0]], np.uint8)[:, :, None], 1).item() == 0
    assert resize.shrink_area(np.array([[1, 2], [2, 1]], np.uint8)[:, :, None], 1).item() == 2


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_keeps_the_central_square(name):
    wide = np.concatenate([np.zeros((32, 16, 3)), np.full((32, 32, 3), 200), np.zeros((32, 16, 3))], axis=1)
    for image in (wide, wide.swapaxes(0, 1)):
        made = resize.FILTERS[name](image.astype(np.uint8), 8)
        assert made.shape == (8, 8, 3) and (made[1:-1, 1:-1] == 200).all()
    grey = resize.FILTERS[name](noise(31, 17, 1), 8)
    assert grey.shape == (8, 8, 1) and grey.flags.c_contiguous


@hypothesis.settings(deadline=None)
@hypothesis.given(U8_IMAGES)
def test_area_to_its_own_size_is_the_square(image):
    square = resize.crop_square(image)
    assert np.array_equal(resize.shrink_area(image, len(square)), square)


def adm(pixels: np.ndarray, image_size: int) -> np.ndarray:
    """What ADM's image datasets do to an image, written down from the description of its pipeline."""
    now = PIL.Image.fromarray(pixels)
    while not min(now.width, now.height) < 2 * image_size:
        now = now.resize((int(now.width / 2), int(now.height / 2)), PIL.Image.BOX)
    factor = image_size / min(now.width, now.height)
    now = now.resize((round(now.width * factor), round(now.height * factor)), PIL.Image.BICUBIC)
    x, y = (now.width - image_size) // 2, (now.height - image_size) // 2
    return np.array(now.crop((x, y, x + image_size, y + image_size)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [64, 256])
def test_adm_is_bit_for_bit_that_of_adm(shape, size):
    image = noise(*shape, 3)
    assert np.array_equal(resize.resize_adm(image, size), adm(image, size))


def classifier_view(pixels: np.ndarray, short: int, size: int) -> np.ndarray:
    """Resize(short, bicubic) and CenterCrop(size), as torchvision documents them for PIL images."""
    now = PIL.Image.fromarray(pixels)
    if now.width <= now.height:
        now = now.resize((short, int(short * now.height / now.width)), PIL.Image.BICUBIC)
    else:
        now = now.resize((int(short * now.width / now.height), short), PIL.Image.BICUBIC)
    top, left = round((now.height - size) / 2.0), round((now.width - size) / 2.0)
    return np.array(now.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("size", "short"), [(224, 256), (64, 73), (160, 183), (384, 439)])
def test_cas_is_the_view_of_classifiers(shape, size, short):
    image = noise(*shape, 3)
    assert resize.cas_short_side(size) == short
    assert np.array_equal(resize.resize_cas(image, size), classifier_view(image, short, size))


def test_every_filter_of_the_settings_is_there():
    assert tuple(resize.FILTERS) == FILTERS


def test_a_strip_that_would_become_huge_is_refused() -> None:
    """257 bytes of PNG, 60,000 x 1 px: at a short side of 256 px it would have 4 billion pixels."""
    from synthaug.data.resize import check_shape
    from synthaug.errors import DataError

    check_shape(400, 500, 1024)
    with pytest.raises(DataError, match="60000 x 1 px"):
        check_shape(1, 60000, 256)
