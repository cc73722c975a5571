"""The Efficient U-Net: its formula written out, sizes it never saw, memory, masks, precision, gradients."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from synthaug import experiment, rng
from synthaug.models import attention
from synthaug.models.functional import Model, abstract
from synthaug.models.unet import build_unet

TEXT, LENGTH = 16, 5
SETTINGS = {
    "kind": "efficient",
    "channels": 8,
    "channel_mult": (1, 2),
    "num_res_blocks": (1, 2),
    "attention_resolutions": (4,),
    "num_heads": 2,
    "norm_groups": 4,
    "text_pool_heads": 2,
}


SMALL = {"channel_mult": (1,), "num_res_blocks": (1,), "attention_resolutions": (8,)}


def network(**settings: Any) -> experiment.Network:
    """Returns a tiny enlarger to 16 px: level 0 at 8 px, level 1 with attention at 4 px."""
    return experiment.Network(
        unet=experiment.UNet(**{**SETTINGS, **settings}),
        resolution=16,
        text_width=TEXT,
        low_res=True,
        augmentation="continuous",
        num_classes=3,
    )


@functools.cache
def model(**settings: Any) -> Model:
    return build_unet(network(**settings))


@functools.cache
def weights(**settings: Any) -> Any:
    """Returns weights without zeros, so that no branch is silent."""
    leaves, tree = jax.tree.flatten(abstract(model(**settings)))
    draw = np.random.default_rng(0)
    filled = [draw.normal(0, 0.7 / math.sqrt(max(1, math.prod(a.shape[:-1]))), a.shape) for a in leaves]
    return jax.tree.unflatten(tree, [jnp.asarray(a, jnp.float32) for a in filled])


def inputs(batch: int = 2, height: int = 16, width: int = 16) -> tuple[Any, Any, dict[str, Any]]:
    draw = np.random.default_rng(1)
    images = [jnp.asarray(draw.normal(size=(batch, height, width, 3)), jnp.float32) for _ in range(2)]
    cond = {
        "text": jnp.asarray(draw.normal(size=(batch, LENGTH, TEXT)), jnp.float32),
        "text_mask": jnp.arange(LENGTH)[None] < jnp.arange(2, 2 + batch)[:, None],
        "low_res": images[1],
        "aug_time": jnp.linspace(0.0, 300.0, batch),
    }
    return images[0], jnp.linspace(10.0, 900.0, batch), cond


@functools.cache
def apply(**settings: Any) -> Any:
    return jax.jit(model(**settings).apply)


# ----------------------------------------------------------------------- the formula, written out


def _linear(p: Any, x: jax.Array) -> jax.Array:
    return jnp.einsum("...i,ij->...j", x, p["kernel"]) + p["bias"].reshape((1,) * (x.ndim - 1) + (-1,))


def _conv(p: Any, x: jax.Array, stride: int = 1) -> jax.Array:
    axes = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, p["kernel"], (1, 1), "SAME", dimension_numbers=axes)
    return (y + p["bias"].reshape(1, 1, 1, -1))[:, ::stride, ::stride]


def _norm(p: Any, x: jax.Array, groups: int = 4) -> jax.Array:
    grouped = x.reshape(*x.shape[:3], groups, -1)
    mean = grouped.mean(axis=(1, 2, 4), keepdims=True)
    variance = jnp.square(grouped - mean).mean(axis=(1, 2, 4), keepdims=True)
    plain = ((grouped - mean) / jnp.sqrt(variance + 1e-5)).reshape(x.shape)
    return plain * p["scale"].reshape(1, 1, 1, -1) + p["bias"].reshape(1, 1, 1, -1)


def _res(p: Any, x: jax.Array, embedding: jax.Array) -> jax.Array:
    scale, shift = jnp.split(_linear(p["embedding"], embedding)[:, None, None], 2, axis=-1)
    h = _conv(p["conv0"], jax.nn.silu(_norm(p["norm0"], x)))
    h = _conv(p["conv1"], jax.nn.silu(_norm(p["norm1"], h) * (1 + scale) + shift))
    return h + _linear(p["skip"], x)


def _transformer(p: Any, x: jax.Array, text: Any, mask: jax.Array) -> jax.Array:
    b, h, w, c = x.shape
    query, key, value = jnp.split(
        _linear(p["attention"]["qkv"], _norm(p["attention"]["norm"], x)).reshape(b, h * w, 3 * c), 3, axis=-1
    )
    key, value = jnp.concatenate([text.key, key], axis=1), jnp.concatenate([text.value, value], axis=1)
    seen = jnp.concatenate([mask, jnp.ones((b, h * w), bool)], axis=1)
    heads = []
    for q, k, v in zip(*(jnp.split(a, 2, axis=-1) for a in (query, key, value)), strict=True):
        scores = jnp.einsum("bqc,bkc->bqk", q, k) / math.sqrt(c / 2)
        share = jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf), axis=-1)
        heads.append(jnp.einsum("bqk,bkc->bqc", share, v))
    x = x + _linear(p["attention"]["out"], jnp.concatenate(heads, axis=-1)).reshape(b, h, w, c)
    hidden = jax.nn.silu(_linear(p["feed"]["mlp"]["linear0"], _norm(p["feed"]["norm"], x)))
    return x + _linear(p["feed"]["mlp"]["linear1"], hidden)


def _written_out(p: Any, z_t: jax.Array, embedding: jax.Array, cond: Any, state: Any) -> jax.Array:
    """Returns the network of SETTINGS from Fig. A.27 to A.30, block by block."""
    down, up, text = p["down"], p["up"], state["blocks"]
    h = _conv(p["conv_in"], jnp.concatenate([z_t, cond["low_res"]], axis=-1))
    skip = h = _res(down["level0_block0"], _conv(down["level0_in"], h, stride=2), embedding)
    h = _conv(down["level1_in"], h, stride=2)
    h = _res(down["level1_block1"], _res(down["level1_block0"], h, embedding), embedding)
    h = _transformer(down["level1_attention"], h, text["down/level1_attention"], cond["text_mask"])
    h = _res(up["level1_block1"], _res(up["level1_block0"], h, embedding), embedding)
    h = _transformer(up["level1_attention"], h, text["up/level1_attention"], cond["text_mask"])
    h = _conv(up["level1_out"], h.repeat(2, axis=1).repeat(2, axis=2)) + skip / math.sqrt(2)
    h = _res(up["level0_block0"], h, embedding)
    return _linear(p["out"], _conv(up["level0_out"], h.repeat(2, axis=1).repeat(2, axis=2)))


def test_forward_is_the_formula() -> None:
    z_t, time, cond = inputs()
    p = weights()["params"]
    state = model().apply(weights(), cond["text"], cond["text_mask"], method="read_text")

    def mlp(p: Any, position: jax.Array) -> jax.Array:
        angle = position[:, None] * jnp.exp(-math.log(10000) * jnp.arange(4.0) / 4)[None]
        wave = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        return _linear(p["linear1"], jax.nn.silu(_linear(p["linear0"], wave)))

    embedding = jax.nn.silu(mlp(p["time"], time) + state["pooled"] + mlp(p["aug_level"], cond["aug_time"]))
    expected = jax.jit(_written_out)(p, z_t, embedding, cond, state)
    found = apply()(weights(), z_t, time, cond)
    assert float(jnp.abs(expected).max()) > 0.1
    assert jnp.abs(found - expected).max() <= 1e-5 * jnp.abs(expected).max()


# ------------------------------------------------------------------------------------ properties


def test_a_text_read_once_gives_the_same_image() -> None:
    z_t, time, cond = inputs()
    state = model().apply(weights(), cond["text"], cond["text_mask"], method="read_text")
    rest = {k: v for k, v in cond.items() if not k.startswith("text")}
    found = apply()(weights(), z_t, time, {**rest, "text_state": state})
    expected = apply()(weights(), z_t, time, cond)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("attention", ["self+text", "text"])
def test_text_that_is_masked_out_does_not_show(attention: str) -> None:
    z_t, time, cond = inputs()
    nothing = {**cond, "text_mask": jnp.zeros((2, LENGTH), bool)}
    one = apply(attention=attention)(weights(attention=attention), z_t, time, nothing)
    other = {**nothing, "text": nothing["text"] * 0.0}
    two = apply(attention=attention)(weights(attention=attention), z_t, time, other)
    assert jnp.isfinite(one).all()
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-5 * float(jnp.abs(one).max()))
    with_text = apply(attention=attention)(weights(attention=attention), z_t, time, cond)
    assert jnp.abs(with_text - one).max() > 1e-3 * jnp.abs(one).max()


def test_weights_of_a_crop_run_on_larger_images_of_any_form() -> None:
    # The 256->1024 model trains on crops of a quarter of the side; 16 -> 64 here, and an oblong.
    small = weights(attention="text")
    for height, width in ((64, 64), (8, 20)):
        z_t, time, cond = inputs(1, height, width)
        found = apply(attention="text")(small, z_t, time, cond)
        assert found.shape == (1, height, width, 3)
        assert jnp.isfinite(found).all()


def largest(attention: str, side: int) -> int:
    """Returns the elements of the largest array in a forward pass of the published enlarger to 1024 px."""
    unet = experiment.UNet(
        kind="efficient",
        channels=128,
        channel_mult=(1, 2, 4, 8),
        num_res_blocks=(1,),  # each makes arrays of the same sizes
        attention_resolutions=(64,),
        attention=attention,
        num_heads=8,
    )
    settings = experiment.Network(unet=unet, resolution=1024, text_width=TEXT, low_res=True)
    enlarger, shape = build_unet(settings), jax.ShapeDtypeStruct
    cond = {
        "text": shape((1, LENGTH, TEXT), jnp.float32),
        "text_mask": shape((1, LENGTH), bool),
        "low_res": shape((1, side, side, 3), jnp.float32),
    }
    image, time = shape((1, side, side, 3), jnp.float32), shape((1,), jnp.float32)
    program = jax.make_jaxpr(enlarger.apply)(abstract(enlarger), image, time, cond)
    return max(_sizes(program.jaxpr))


def _sizes(program: Any) -> list[int]:
    found = []
    for step in program.eqns:
        # Weights are made to the network's precision one by one; only what has the images' batch axis counts.
        found += [math.prod(v.aval.shape) for v in step.outvars if v.aval.shape[:1] == (1,)]
        for inner in jaxprs_in_params(step.params):
            found += _sizes(inner)
    return found


def test_memory_grows_with_the_pixels_where_attention_is_to_text_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "ONE_HEAD_FROM", math.inf)  # a CPU takes the heads one by one
    crop, whole = largest("text", 256), largest("text", 1024)
    assert whole == 16 * crop == 1024 * 1024 * 128  # the top level's activations, 537 MB in f32
    # Attention to itself at 1/16 of 2048 px: 8 heads x (128 x 128)^2 scores, 16 x those of 1024 px.
    assert largest("self+text", 2048) > 2 * largest("text", 2048)


def test_bfloat16_is_close_and_the_output_stays_f32() -> None:
    z_t, time, cond = inputs()
    half = build_unet(network(), compute="bf16")
    found = jax.jit(half.apply)(weights(), z_t, time, cond)
    expected = apply()(weights(), z_t, time, cond)
    assert found.dtype == jnp.float32
    cosine = (found * expected).sum() / jnp.sqrt(jnp.square(found).sum() * jnp.square(expected).sum())
    assert 0.999 < cosine < 1.0


def test_remat_gives_the_same_gradients_and_every_parameter_has_one() -> None:
    z_t, time, cond = inputs()

    def gradients(remat: bool) -> Any:
        built = build_unet(network(dropout=0.2, **SMALL), remat=remat)

        def loss(params: Any) -> jax.Array:
            found, _ = built.apply_train({"params": params, "stats": {}}, z_t, time, cond, key=rng.root(7))
            return jnp.square(found - z_t).mean()

        return jax.jit(jax.grad(loss))(weights(**SMALL)["params"])

    plain, again = gradients(False), gradients(True)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(again), strict=True):
        scale = float(jnp.abs(a).max())
        assert scale > 0, jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * scale, err_msg=jax.tree_util.keystr(path))


def test_start_predicts_zero_and_labels_can_take_the_place_of_text() -> None:
    z_t, time, cond = inputs(1)
    rest = {k: v for k, v in cond.items() if not k.startswith("text")} | {"label": jnp.array([1])}
    labels: dict[str, Any] = {"conditioning": "label", "attention": "self"}
    start = model(**labels).init(rng.root(0))
    assert jnp.abs(apply(**labels)(start, z_t, time, rest)).max() == 0.0
    one = apply(**labels)(weights(**labels), z_t, time, rest)
    two = apply(**labels)(weights(**labels), z_t, time, {**rest, "label": jnp.array([2])})
    assert jnp.abs(one - two).max() > 1e-3 * jnp.abs(one).max()
