"""The ADM-family U-Net's settings: text read once, masks, labels, bfloat16, recomputation, cut weights."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from synthaug import experiment, parallel, rng
from synthaug.models import functional
from synthaug.models.unet import build_unet

ROOT = pathlib.Path(__file__).parent.parent
B, L, D, K = 3, 5, 12, 4

TEXT = experiment.Network(
    unet=experiment.UNet(
        channels=8,
        channel_mult=(1,),
        num_res_blocks=(1,),
        attention_resolutions=(4,),
        head_dim=4,
        norm_groups=4,
        text_channels=32,
        text_norm="group",
    ),
    resolution=4,
    channels=2,
    out_channels=4,
    text_width=D,
    text_length=L,
)


def changed(network: experiment.Network, **changes) -> experiment.Network:
    return dataclasses.replace(network, unet=dataclasses.replace(network.unet, **changes))


# Two levels of different depth, cross-attention only, and every width and scale stated.
VARIED = dataclasses.replace(
    changed(
        TEXT,
        channel_mult=(1, 1.5),
        num_res_blocks=(1, 2),
        attention="text",
        activation="gelu",
        residual_scale=0.7071,
        embedding_width=24,
        text_pool_heads=3,
    ),
    low_res=True,
    augmentation="discrete",
)
LABEL = dataclasses.replace(
    changed(TEXT, conditioning="label", attention="self", num_heads=2),
    text_width=0,
    text_length=0,
    num_classes=K,
)


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def built(network: experiment.Network, compute: str = "f32", remat: bool = False) -> functional.Model:
    return build_unet(network, compute=compute, remat=remat)


@functools.cache
def weights_of(network: experiment.Network) -> functional.Weights:
    """Returns initial weights plus noise, so that nothing that starts at zero hides what is behind it."""
    numbers = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: jnp.asarray(0.2 * numbers.normal(size=x.shape) + (x.ndim == 1) * 0.5, jnp.float32),
        functional.abstract(built(network)),
    )


@functools.cache
def compiled(network: experiment.Network, compute: str = "f32"):
    return functools.partial(quick_jit(built(network, compute).apply), weights_of(network))


def inputs(network: experiment.Network, side: int = 4) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    cond = {"text": normal(2, B, L, D), "text_mask": jnp.arange(L)[None, :] < jnp.array([[2], [5], [3]])}
    if network.num_classes:
        cond = {"label": jnp.array([0, 1, K - 1])}
    if network.low_res:
        cond |= {"low_res": normal(3, B, side, side, 2), "aug_time": jnp.array([0.0, 300.0, 700.0])}
    return normal(4, B, side, side, 2), jnp.array([0.0, 250.0, 999.0]), cond


def apart(a: jax.Array, b: jax.Array) -> np.ndarray:
    """Returns the largest difference per image."""
    return np.abs(np.asarray(a) - np.asarray(b)).reshape(len(a), -1).max(axis=1)


@pytest.mark.parametrize("network", [TEXT, VARIED], ids=["text", "varied"])
def test_what_is_read_of_the_text_once_stands_for_the_text(network):
    z_t, time, cond = inputs(network)
    read = quick_jit(functools.partial(built(network).apply, method="read_text"))
    state = read(weights_of(network), cond["text"], cond["text_mask"])
    assert {leaf.shape[0] for leaf in jax.tree.leaves(state)} == {B}
    rest = {name: value for name, value in cond.items() if not name.startswith("text")}
    expected = compiled(network)(z_t, time, cond)
    cached = compiled(network)(z_t, time, rest | {"text_state": state})
    np.testing.assert_allclose(cached, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("network", [TEXT, VARIED], ids=["text", "varied"])
def test_masked_and_absent_text(network):
    z_t, time, cond = inputs(network)
    none = cond | {"text_mask": jnp.zeros((B, L), bool)}
    other = jnp.where(cond["text_mask"][:, :, None], cond["text"], normal(6, B, L, D))
    run = functools.partial(compiled(network), z_t, time)
    assert np.isfinite(run(none)).all()
    np.testing.assert_allclose(run(none), run(none | {"text": jnp.zeros((B, L, D))}), atol=1e-5)
    np.testing.assert_allclose(run(cond), run(cond | {"text": other}), atol=1e-5)
    assert (apart(run(cond), run(none)) > 1e-3).all()


def test_padding_that_is_attended_to_needs_no_mask():
    network = changed(TEXT, attend_padding=True)
    z_t, time, cond = inputs(network)
    run = functools.partial(compiled(network), z_t, time)
    assert np.array_equal(run(cond), run(cond | {"text_mask": ~cond["text_mask"]}))
    other = jnp.where(cond["text_mask"][:, :, None], cond["text"], normal(6, B, L, D))
    assert (apart(run(cond), run(cond | {"text": other}))[[0, 2]] > 1e-3).all()  # these two have padding


def test_labels_condition_a_network_without_text():
    z_t, time, cond = inputs(LABEL)
    same = [jnp.broadcast_to(x[:1], x.shape) for x in (z_t, time)]
    images = np.asarray(compiled(LABEL)(*same, cond))
    assert (apart(images[[0, 1]], images[[1, 2]]) > 1e-3).all()
    assert sorted(functional.abstract(built(LABEL))["params"]) == [
        *("conv_in", "conv_out", "down", "label", "middle0", "middle1", "norm_out", "time", "up"),
    ]


def test_images_need_be_neither_square_nor_of_the_networks_resolution():
    _, time, cond = inputs(TEXT)
    images = normal(7, B, 3, 7, 2)
    found = compiled(TEXT)(images, time, cond)
    assert found.shape == (B, 3, 7, 4) and np.isfinite(found).all()
    # Another image beside this one is seen, by attention: the network runs on all of it at once.
    assert (
        apart(found[:, :, :2], compiled(TEXT)(images.at[:, :, 6].add(1.0), time, cond)[:, :, :2]) > 1e-4
    ).all()


@pytest.mark.parametrize("network", [TEXT, LABEL], ids=["text", "label"])
def test_bfloat16_is_near_and_only_inside(network):
    exact = np.asarray(compiled(network)(*inputs(network))).ravel()
    half = np.asarray(compiled(network, "bf16")(*inputs(network))).ravel()
    assert half.dtype == np.float32 and exact @ half > 0.999 * np.linalg.norm(exact) * np.linalg.norm(half)
    program = str(jax.make_jaxpr(built(network, "bf16").apply)(weights_of(network), *inputs(network)))
    products = [line for line in program.splitlines() if "conv_general_dilated[" in line]
    assert products and all("bf16" in line for line in products)
    assert {leaf.dtype for leaf in jax.tree.leaves(functional.abstract(built(network, "bf16")))} == {
        jnp.dtype("float32")
    }


def test_rematerialised_gradients_are_the_same():
    network = changed(LABEL, dropout=0.5)

    def gradient(remat: bool):
        def product(params, args):
            model = built(network, remat=remat)
            out = model.apply({"params": params, "stats": {}}, *args, train=True, key=rng.root(3))
            return (out * normal(5, B, 4, 4, 4)).sum()

        return jax.grad(product)

    args = (weights_of(network)["params"], inputs(network))
    plain, again = (quick_jit(gradient(remat))(*args) for remat in (False, True))
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * largest)
    plain, again = (str(jax.make_jaxpr(gradient(remat))(*args)) for remat in (False, True))
    # At least the first convolution of each of the five blocks is computed a second time.
    assert again.count("conv_general_dilated[") >= plain.count("conv_general_dilated[") + 5


def test_weights_cut_over_two_devices_give_the_same_output():
    done = subprocess.run(
        [sys.executable, "-c", "from tests import test_unet; test_unet.compare_cut_weights()"],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 10  # arrays that were cut


def compare_cut_weights() -> None:
    """Prints how many weights lie in two halves on two devices, after the outputs were found equal."""
    run = quick_jit(built(TEXT).apply)
    args = jax.tree.map(lambda x: jnp.concatenate([x, x[:1]]), inputs(TEXT))  # 4 images on 2 devices
    cut = parallel.spread(weights_of(TEXT), shard_from=64)
    batch = jax.device_put(args, NamedSharding(parallel.mesh(), PartitionSpec("data")))
    np.testing.assert_allclose(run(cut, *batch), run(weights_of(TEXT), *args), atol=1e-5)
    print(sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(cut)))
