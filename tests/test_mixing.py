"""Normalise, erase, mixup and cutmix on the device: closed forms, laws, published distributions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from synthaug import rng
from synthaug.data.images import to_float
from synthaug.experiment import Augment
from synthaug.train import mixing

KEY = rng.stream(rng.root(0), "test")


def batch(count: int = 6, size: int = 16, channels: int = 3) -> tuple[jax.Array, jax.Array]:
    images = jax.random.normal(rng.stream(KEY, "images"), (count, size, size, channels))
    return images, mixing.smooth_targets(jnp.arange(count) % 4, 4, 0.1)


def keys(count: int) -> jax.Array:
    return rng.for_images(KEY, jnp.arange(count))


# ------------------------------------------------------------------------------------------ normalise


@pytest.mark.parametrize("channels", [1, 3])
def test_unit_is_what_the_models_have_always_seen(channels):
    pixels = jnp.arange(256).astype(jnp.uint8).repeat(channels).reshape(1, 16, 16, channels)
    assert np.array_equal(mixing.normalize(pixels, "unit"), to_float(pixels))


def test_imagenet_colours_become_mean_0_deviation_1():
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    found = mixing.normalize(jnp.asarray(pixels), "imagenet")
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, (pixels / 255 - mean) / deviation, atol=1e-5)
    grey = mixing.normalize(jnp.asarray(pixels[..., :1]), "imagenet")
    np.testing.assert_allclose(grey, (pixels[..., :1] / 255 - mean.mean()) / deviation.mean(), atol=1e-5)


def test_smoothing_is_optax_and_timm():
    labels = jnp.array([0, 3, 1])
    found = mixing.smooth_targets(labels, 5, 0.1)
    assert np.array_equal(found, optax.smooth_labels(jax.nn.one_hot(labels, 5), 0.1))
    assert found[1, 3] == pytest.approx(0.92) and found[1, 0] == pytest.approx(0.02)


# ---------------------------------------------------------------------------------------------- erase


erase = jax.jit(mixing.erase)


def erased(share: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns 2000 erased images of an impossible value, and where they changed."""
    found = np.asarray(erase(jnp.full((2000, 32, 32, 3), 100.0), share, KEY))
    return found, (found != 100.0).all(axis=-1)


def test_share_of_images_is_erased():
    found, changed = erased(0.25)
    assert 0.22 < changed.any((1, 2)).mean() < 0.28
    assert (erased(0.0)[0] == 100.0).all()
    assert ((found == 100.0).all(axis=-1) | changed).all()  # all channels of a pixel or none


def test_erased_rectangles_have_the_published_sizes_and_noise():
    found, changed = erased(1.0)
    assert changed.any((1, 2)).all()
    rows, columns = changed.any(2).sum(1), changed.any(1).sum(1)
    assert np.array_equal(rows * columns, changed.sum((1, 2)))  # rectangles, without holes
    area, aspect = rows * columns / 1024, np.log(rows / columns)
    assert area.min() > 0.01 and area.max() < 0.37 and rows.max() < 32 and columns.max() < 32
    assert abs(area.mean() - (0.02 + 1 / 3) / 2) < 0.01
    assert abs(aspect.mean()) < 0.05 and np.quantile(abs(aspect), 0.95) < np.log(1 / 0.3) + 0.1
    first_row = changed.any(2).argmax(1)
    assert abs((first_row / (32 - rows)).mean() - 0.5) < 0.02
    noise = found[changed]
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01


def test_each_image_is_erased_by_its_own_row():
    images, _ = batch(8)
    whole = erase(images, 1.0, KEY)
    assert np.array_equal(whole[:5], erase(images[:5], 1.0, KEY))
    assert not np.array_equal(whole, erase(images, 1.0, rng.at(KEY, 1)))


def test_image_in_which_no_rectangle_fits_stays():
    images = jnp.full((20, 1, 1, 3), 100.0)
    assert (erase(images, 1.0, KEY) == 100.0).all()


# ------------------------------------------------------------------------------------- mixup, cutmix


def test_nothing_is_done_by_default():
    images, targets = batch()
    found = mixing.augment_batch(images, targets, Augment(), KEY)
    assert found[0] is images and found[1] is targets


def test_mixup_blends_with_the_reversed_batch():
    images, targets = batch()
    mixed, soft = mixing.mix(images, targets, Augment(mixup=0.8), KEY)
    # the weight from the targets explains the images, too
    a, b = targets[0], targets[-1]
    weight = float(((soft[0] - b) * (a - b)).sum() / ((a - b) ** 2).sum())
    assert 0 < weight < 1
    np.testing.assert_allclose(mixed, weight * images + (1 - weight) * images[::-1], atol=1e-5)
    np.testing.assert_allclose(soft, weight * targets + (1 - weight) * targets[::-1], atol=1e-6)
    np.testing.assert_allclose(soft.sum(axis=1), 1.0, atol=1e-6)


def test_cutmix_pastes_a_rectangle_and_counts_its_pixels():
    images, _ = batch(size=20)
    one_hot = jax.nn.one_hot(jnp.arange(6), 6)
    cut = jax.jit(lambda key: mixing.mix(images, one_hot, Augment(cutmix=1.0), key))
    for key in keys(30):
        mixed, soft = cut(key)
        own = np.asarray((mixed == images).all(axis=(0, 3)))
        other = np.asarray((mixed == images[::-1]).all(axis=(0, 3)))
        assert (own ^ other).all()
        rows, columns = other.any(1).sum(), other.any(0).sum()
        assert rows * columns == other.sum()
        assert soft[0, 0] == pytest.approx(1 - other.mean(), abs=1e-6)
        assert soft[0, 5] == pytest.approx(other.mean(), abs=1e-6)


def weights(settings: Augment, count: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weight of the own target under many keys, and whether it was cut."""
    images = jnp.stack([jnp.zeros((16, 16, 1)), jnp.ones((16, 16, 1))])
    one_hot = jnp.eye(2)

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        mixed, soft = mixing.mix(images, one_hot, settings, key)
        return soft[0, 0], ((mixed[0] == 0) | (mixed[0] == 1)).all()

    found = jax.jit(jax.vmap(one))(keys(count))
    return np.asarray(found[0]), np.asarray(found[1])


def test_weights_of_mixup_follow_beta():
    weight, _ = weights(Augment(mixup=0.8))
    assert abs(weight.mean() - 0.5) < 0.02
    assert abs(weight.var() - 0.25 / (2 * 0.8 + 1)) < 0.01  # of Beta(a, a)


def test_weights_of_cutmix_follow_the_area_inside():
    weight, cut = weights(Augment(cutmix=1.0))
    assert cut.all()
    # lambda is uniform; of a rectangle of side r around a uniform centre 1 - r / 4 of each side lies inside:
    # the mean area is the integral of (r (1 - r / 4)) ** 2 over lambda = 1 - r ** 2
    r = np.sqrt(1 - np.linspace(0, 1, 10001))
    assert abs((1 - weight).mean() - ((r * (1 - r / 4)) ** 2).mean()) < 0.02


def test_half_of_the_batches_are_cut_and_a_share_is_mixed():
    weight, cut = weights(Augment(mixup=0.8, cutmix=1.0))
    assert 0.47 < cut.mean() < 0.55  # a tiny rectangle or weight counts as cut
    weight, _ = weights(Augment(mixup=0.8, mix_share=0.2))
    assert 0.77 < (weight == 1.0).mean() < 0.83


def test_recipe_is_deterministic_and_compiles():
    images, targets = batch(8)
    settings = Augment(erase=0.25, mixup=0.8, cutmix=1.0)
    run = jax.jit(lambda a, b, key: mixing.augment_batch(a, b, settings, key))
    first, again, other = (
        run(images, targets, KEY),
        run(images, targets, KEY),
        run(images, targets, rng.at(KEY, 3)),
    )
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    assert first[0].shape == images.shape and first[0].dtype == jnp.float32
    np.testing.assert_allclose(first[1].sum(axis=1), 1.0, atol=1e-6)
