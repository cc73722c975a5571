"""What a CPU does in another order: Winograd's convolution, and attention one head after the other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthaug import experiment, rng
from synthaug.models import attention, winograd
from synthaug.models.unet import build_unet


def random(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (2, 12), (1, 1)])
def test_winograd_is_the_convolution(size: tuple[int, int]) -> None:
    x, kernel = random(2, *size, 6), random(3, 3, 6, 5)
    axes = ("NHWC", "HWIO", "NHWC")
    plain = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=axes)
    found = jax.jit(winograd.convolve)(x, winograd.transform_kernel(kernel))
    np.testing.assert_allclose(found, plain, atol=1e-5 * float(jnp.abs(plain).max()))


def test_prepared_weights_give_the_same_images() -> None:
    settings = experiment.UNet(channels=64, channel_mult=(1,), num_res_blocks=(1,))
    model = build_unet(experiment.Network(unet=settings, resolution=4, text_width=8))
    weights = jax.tree.map(lambda leaf: leaf + 0.02 * random(*leaf.shape), model.init(rng.root(0)))
    prepared = jax.jit(model.prepare)(weights)
    kernels = [p["params"]["middle0"]["res"]["conv0"]["kernel"] for p in (weights, prepared)]
    assert [kernel.shape for kernel in kernels] == [(3, 3, 64, 64), (4, 4, 64, 64)]
    assert prepared["params"]["conv_in"]["kernel"].shape == (3, 3, 3, 64)  # too few channels to gain
    cond = {"text": random(2, 3, 8), "text_mask": jnp.ones((2, 3), bool)}
    plain, fast = (model.apply(w, random(2, 4, 4, 3), jnp.full(2, 5.0), cond) for w in (weights, prepared))
    assert float(jnp.abs(plain).max()) > 0.01
    np.testing.assert_allclose(fast, plain, atol=1e-5 * float(jnp.abs(plain).max()))


def test_attention_by_heads_is_attention_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = random(2, 5, 8), random(2, 7, 8), random(2, 7, 8)[..., ::-1]
    mask = jnp.array([[True] * 7, [True, False] * 3 + [True]])

    def outputs() -> list[jax.Array]:
        return [attention.attend(query, key, value, num_heads=2, mask=seen) for seen in (None, mask)]

    at_once = outputs()
    monkeypatch.setattr(attention, "ONE_HEAD_FROM", 1)
    for one, other in zip(outputs(), at_once, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert float(jnp.abs(at_once[0] - at_once[1]).max()) > 0.01
