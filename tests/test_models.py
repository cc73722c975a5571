"""Networks: what depends on what, what they start from, and what a training step changes."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from synthaug import experiment, rng
from synthaug.errors import DataError
from synthaug.models import functional, layers, text
from synthaug.models.attention import attend
from synthaug.models.classifier import build_classifier
from synthaug.models.unet import build_unet

B, L, D, K = 3, 5, 12, 4

UNET = experiment.UNet(
    channels=8,
    channel_mult=(1, 2),
    num_res_blocks=(1,),
    attention_resolutions=(4,),
    head_dim=4,
    norm_groups=4,
)
BASE = experiment.Network(unet=UNET, resolution=8, channels=2, out_channels=4, text_width=D, text_length=L)
ENLARGER = dataclasses.replace(BASE, low_res=True, augmentation="continuous")
DROPPING_UNET = experiment.UNet(
    channels=8, channel_mult=(1,), num_res_blocks=(1,), head_dim=4, norm_groups=4, dropout=0.5
)
PAPER_BASE = experiment.UNet(
    channels=512, channel_mult=(1, 2, 3, 4), num_res_blocks=(3,), attention_resolutions=(32, 16, 8)
)
RESNET = experiment.Classifier(kind="resnet", width=4, depths=(1, 1), dropout=0.5)
VIT = experiment.Classifier(kind="vit", width=8, depths=(2,), num_heads=2, patch_size=2, dropout=0.5)


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.cache
def unet(has_low_res: bool) -> functional.Model:
    return build_unet(ENLARGER if has_low_res else BASE)


@functools.cache
def dropping_unet() -> functional.Model:
    return build_unet(dataclasses.replace(BASE, unet=DROPPING_UNET, resolution=4, out_channels=2))


@functools.cache
def classifier(settings: experiment.Classifier) -> functional.Model:
    return build_classifier(settings, resolution=4, channels=2, num_classes=K)


@functools.cache
def initial(model: functional.Model) -> functional.Weights:
    return model.init(rng.root(0))


@functools.cache
def perturbed(model: functional.Model) -> functional.Weights:
    """Returns initial weights plus noise, so that nothing that starts at zero hides what is behind it."""
    numbers = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: x + jnp.asarray(0.2 * numbers.normal(size=x.shape), jnp.float32), initial(model)["params"]
    )
    return {"params": params, "stats": initial(model)["stats"]}


# Most of these tests' time is compilation; this halves it.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def compiled(model: functional.Model):
    return quick_jit(lambda weights, *args: model.apply(weights, *args))


@functools.cache
def unet_gradient(model: functional.Model):
    """Returns the gradient by parameters of the output's product with fixed random numbers."""

    def product(params, args):
        return (model.apply({"params": params, "stats": {}}, *args) * normal(5, B, 8, 8, 4)).sum()

    return quick_jit(jax.grad(product))


def unet_inputs(has_low_res: bool, side: int = 8) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    cond = {"text": normal(2, B, L, D), "text_mask": jnp.arange(L)[None, :] < jnp.array([[2], [5], [3]])}
    if has_low_res:
        cond |= {"low_res": normal(3, B, side, side, 2), "aug_time": jnp.array([0.0, 300.0, 700.0])}
    return normal(4, B, side, side, 2), jnp.array([0.0, 250.0, 999.0]), cond


def run_unet(has_low_res: bool, **changes: jax.Array) -> np.ndarray:
    z_t, time, cond = unet_inputs(has_low_res)
    cond = {name: changes.get(name, value) for name, value in cond.items()}
    z_t, time = changes.get("z_t", z_t), changes.get("time", time)
    return np.asarray(compiled(unet(has_low_res))(perturbed(unet(has_low_res)), z_t, time, cond))


def apart(a: jax.Array, b: jax.Array) -> np.ndarray:
    """Returns the largest difference per image."""
    return np.abs(np.asarray(a) - np.asarray(b)).reshape(len(a), -1).max(axis=1)


def names_without_gradient(gradient: dict) -> list[str]:
    """Returns the parameters with an output channel (last axis) whose gradient is zero but for rounding."""
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    usual = np.median([np.abs(leaf).max() for _, leaf in leaves])
    by_channel = {
        jax.tree_util.keystr(path): np.abs(leaf).max(axis=tuple(range(leaf.ndim - 1)))
        for path, leaf in leaves
    }
    return [name for name, channels in by_channel.items() if channels.min() < 1e-5 * usual]


# The U-Net.


@pytest.mark.parametrize("has_low_res", [False, True])
def test_unet_output_is_zero_at_init_with_the_asked_shape(has_low_res):
    model = unet(has_low_res)
    prediction = compiled(model)(initial(model), *unet_inputs(has_low_res))
    assert prediction.shape == (B, 8, 8, 4) and prediction.dtype == jnp.float32
    assert not np.asarray(prediction).any()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(initial(model)))


@pytest.mark.parametrize("has_low_res", [False, True])
def test_every_unet_parameter_receives_gradient(has_low_res):
    model = unet(has_low_res)
    gradient = unet_gradient(model)(perturbed(model)["params"], unet_inputs(has_low_res))
    # A bias that is added to all keys of the pooling alike cancels in its softmax; DeepFloyd IF has it.
    assert names_without_gradient(gradient) == ["['text_pool']['key_value']['bias']"]


@pytest.mark.parametrize("name", ["z_t", "time", "text", "text_mask", "low_res", "aug_time"])
def test_every_input_of_the_unet_matters_to_every_image(name):
    z_t, time, cond = unet_inputs(True)
    value = {"z_t": z_t, "time": time, **cond}[name]
    changed = ~value if value.dtype == bool else 0.5 * value + 0.1
    assert (apart(run_unet(True), run_unet(True, **{name: changed})) > 1e-3).all()


def test_masked_tokens_do_not_matter():
    cond = unet_inputs(False)[2]
    noise = jnp.where(cond["text_mask"][:, :, None], 0.0, normal(6, B, L, D))
    assert np.array_equal(run_unet(False), run_unet(False, text=cond["text"] + noise))


def test_null_text_has_finite_output_and_gradient():
    z_t, time, cond = unet_inputs(False)
    null = {"text": jnp.zeros((B, L, D)), "text_mask": jnp.zeros((B, L), bool)}
    gradient = unet_gradient(unet(False))(perturbed(unet(False))["params"], (z_t, time, null))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.isfinite(run_unet(False, **null)).all()
    assert (apart(run_unet(False), run_unet(False, **null)) > 1e-3).all()
    # What stands where the mask is False cannot be told from zeros.
    assert np.array_equal(run_unet(False, **null), run_unet(False, **(null | {"text": cond["text"]})))


def test_unet_treats_each_image_alone():
    args, weights = unet_inputs(True), perturbed(unet(True))
    # The middle image among other neighbours: the others in its place are copies of it.
    copies = jax.tree.map(lambda x: jnp.broadcast_to(x[1:2], x.shape), args)
    among_others = compiled(unet(True))(weights, *args)[1]
    among_copies = compiled(unet(True))(weights, *copies)
    np.testing.assert_allclose(among_copies, jnp.stack([among_others] * B), atol=1e-5)


def test_parameter_names_say_where_they_are():
    params = functional.abstract(unet(True))["params"]
    assert sorted(params["down"]) == ["level0_block0", "level0_down", "level1_block0"]
    assert sorted(params["up"]) == [
        *("level0_block0", "level0_block1", "level1_block0", "level1_block1", "level1_up"),
    ]
    assert sorted(params["down"]["level1_block0"]) == ["attention", "res"]
    assert sorted(params["down"]["level0_block0"]) == ["res"]
    # 2 C images enter, 2 C = 4 channels leave; on the way up h (16) meets the skip connection (16).
    assert params["conv_in"]["kernel"].shape == (3, 3, 4, 8)
    assert params["up"]["level1_block0"]["res"]["conv0"]["kernel"].shape == (3, 3, 32, 16)


def test_the_papers_base_model_has_two_billion_parameters():
    model = build_unet(experiment.Network(unet=PAPER_BASE, resolution=64, text_width=4096))
    assert functional.count_parameters(functional.abstract(model)["params"]) == 2_305_382_403


def test_parameter_counts():
    counts = {
        name: functional.count_parameters(functional.abstract(model)["params"])
        for name, model in {
            "base": unet(False),
            "enlarger": unet(True),
            "resnet": classifier(RESNET),
            "vit": classifier(VIT),
        }.items()
    }
    assert counts == {"base": 59_156, "enlarger": 60_644, "resnet": 1_364, "vit": 1_900}


# Dropout.


def dropout_cases() -> dict[str, tuple[functional.Model, tuple]]:
    images = (normal(7, B, 4, 4, 2),)
    return {
        "unet": (dropping_unet(), unet_inputs(False, side=4)),
        "resnet": (classifier(RESNET), images),
        "vit": (classifier(VIT), images),
    }


@pytest.mark.parametrize("name", ["unet", "resnet", "vit"])
def test_dropout_is_a_function_of_its_key(name):
    model, args = dropout_cases()[name]
    weights = perturbed(model)
    train = quick_jit(lambda key: jax.tree.leaves(model.apply_train(weights, *args, key=key)[0])[0])
    assert np.array_equal(train(rng.root(1)), train(rng.root(1)))
    assert (apart(train(rng.root(1)), train(rng.root(2))) > 1e-3).all()
    with pytest.raises(ValueError, match=r"train = True with dropout = 0.5 needs a key"):
        jax.eval_shape(model.apply_train, weights, *args)


def test_dropout_keeps_the_mean_and_the_stated_share():
    x = layers.dropout(jnp.ones(10000), 0.25, train=True, key=rng.root(0))
    assert set(np.unique(x)) == {0.0, np.float32(1 / 0.75)}
    assert abs(float((x == 0).mean()) - 0.25) < 0.02  # 4.6 standard deviations
    assert np.array_equal(layers.dropout(x, 0.25, train=False, key=None), x)


# Classifiers.


@pytest.mark.parametrize("settings", [RESNET, VIT], ids=["resnet", "vit"])
def test_classifier_returns_logits_and_the_features_in_front_of_the_head(settings):
    model = classifier(settings)
    logits, features = compiled(model)(perturbed(model), normal(7, B, 4, 4, 2))
    assert logits.shape == (B, K) and features.shape == (B, 8)
    assert logits.dtype == features.dtype == jnp.float32
    head = perturbed(model)["params"]["head"]
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"][None], logits, atol=1e-5)


@pytest.mark.parametrize("settings", [RESNET, VIT], ids=["resnet", "vit"])
def test_every_classifier_parameter_receives_gradient(settings):
    model, weights = classifier(settings), perturbed(classifier(settings))

    def product(params):
        (logits, _), stats = model.apply_train(
            weights | {"params": params}, normal(7, 64, 4, 4, 2), key=rng.root(0)
        )
        return (logits * normal(5, 64, K)).sum(), stats

    gradient, stats = quick_jit(jax.grad(product, has_aux=True))(weights["params"])
    # What is added to all keys of a head alike cancels in the softmax; published transformers have it.
    without = [name for name in names_without_gradient(gradient) if "['qkv']['bias']" not in name]
    assert without == []
    assert jax.tree.structure(stats) == jax.tree.structure(weights["stats"])


@pytest.mark.parametrize("settings", [RESNET, VIT], ids=["resnet", "vit"])
def test_classifier_treats_each_image_alone(settings):
    model, images = classifier(settings), normal(7, B, 4, 4, 2)
    together = compiled(model)(perturbed(model), images)[0][1:2]
    np.testing.assert_allclose(compiled(model)(perturbed(model), images[1:2])[0], together, atol=1e-5)


def test_batch_statistics_move_in_training_only():
    model, images = classifier(RESNET), 0.5 + normal(7, B, 4, 4, 2)
    weights = perturbed(model)
    _, stats = quick_jit(model.apply_train)(weights, images, key=rng.root(0))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), stats, weights["stats"])
    assert all(jax.tree.leaves(moved))
    # The stem's new mean is a tenth of the batch's, as the old one is 0.
    kernel = weights["params"]["stem"]["kernel"]
    stem = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(stats["stem_norm"]["mean"], 0.1 * stem.mean(axis=(0, 1, 2)), atol=1e-6)
    with pytest.raises(ValueError, match="use apply_train"):
        model.apply(weights, images, train=True, key=rng.root(0))
    before, after = (compiled(model)(weights | {"stats": s}, images)[0] for s in (weights["stats"], stats))
    assert (apart(before, after) > 1e-3).all()


def test_resnet_works_from_4_px_through_more_stages_than_halvings():
    settings = experiment.Classifier(kind="resnet", width=4, depths=(1, 1, 1, 1))
    model = build_classifier(settings, resolution=4, channels=1, num_classes=K)
    shapes = jax.eval_shape(model.apply, functional.abstract(model), jnp.zeros((2, 4, 4, 1)))
    assert [s.shape for s in shapes] == [(2, K), (2, 32)]


def test_vit_knows_where_a_patch_is():
    model, images = classifier(VIT), normal(7, B, 4, 4, 2)
    upright, flipped = (compiled(model)(perturbed(model), x)[0] for x in (images, images[:, ::-1]))
    assert (apart(upright, flipped) > 1e-3).all()


# The text encoder.

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@functools.cache
def embedded() -> tuple[np.ndarray, np.ndarray]:
    return text.embed_prompts(experiment.TextEncoder(), DIGITS)


def test_tokens_are_bytes_and_an_end():
    ids, mask = text.encode_bytes(["é", ""], 4)
    assert ids.tolist() == [[0xC3, 0xA9, text.END, 0], [text.END, 0, 0, 0]]
    assert mask.tolist() == [[True, True, True, False], [True, False, False, False]]


def test_a_prompt_that_is_too_long_is_refused_by_name():
    assert text.encode_bytes(["harvestman"], 11)[1].all()
    with pytest.raises(DataError, match=r"'harvestman' has 11 tokens.*text_encoder.max_length = 10;"):
        text.encode_bytes(["zero", "harvestman"], 10)


def test_embeddings_have_unit_root_mean_square_within_the_mask_and_are_zero_outside():
    embeddings, mask = embedded()
    assert embeddings.shape == (10, 16, 64) and embeddings.dtype == np.float32
    assert mask.sum(axis=1).tolist() == [len(name) + 1 for name in DIGITS]
    np.testing.assert_allclose(np.sqrt(np.square(embeddings).mean(axis=-1))[mask], 1.0, atol=1e-4)
    assert not embeddings[~mask].any()


def test_prompts_are_well_separated():
    embeddings, mask = embedded()
    pooled = embeddings.sum(axis=1) / mask.sum(axis=1, keepdims=True)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    cosine = pooled @ pooled.T - np.eye(len(DIGITS))
    assert cosine.max() < 0.95


def test_an_embedding_depends_on_nothing_but_prompt_and_seed():
    shorter = experiment.TextEncoder(max_length=8)
    again, mask = text.embed_prompts(shorter, ["seven", "one"])
    np.testing.assert_allclose(again[:, :6], embedded()[0][[7, 1], :6], atol=1e-5)
    other, _ = text.embed_prompts(experiment.TextEncoder(max_length=8, seed=1), ["seven", "one"])
    assert np.abs(other - again)[mask].max() > 0.5


def test_the_text_encoder_is_frozen():
    found = embedded()[0][[0, 7], [0, 5], :3]
    frozen = np.array([[-0.40835, 1.06290, 1.39463], [-0.60579, 0.30854, -0.46897]])
    np.testing.assert_allclose(
        found,
        frozen,
        atol=1e-3,
        err_msg="Embeddings changed: every prompt bank, and every model trained on one, is void. "
        f"If that is meant, write the new values into this test: {found.tolist()}",
    )


# Layers and the conversion to pure functions.


def test_group_norm_equals_the_library_and_modulates():
    x, scale, shift = 3.0 + 2.0 * normal(8, 2, 4, 4, 8), normal(9, 2, 8), normal(10, 2, 8)
    ours = layers.GroupNorm(8, 2, rngs=nnx.Rngs(0))
    theirs = nnx.GroupNorm(8, num_groups=2, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)
    modulated = theirs(x) * (1 + scale[:, None, None]) + shift[:, None, None]
    np.testing.assert_allclose(ours(x, (scale, shift)), modulated, atol=1e-5)


def test_attend_equals_its_formula():
    q, k, v = normal(11, 1, 2, 6), normal(12, 1, 3, 6), normal(13, 1, 3, 6)
    found = attend(q, k, v, num_heads=2, mask=jnp.array([[True, False, True]]))
    for head in (slice(0, 3), slice(3, 6)):
        logits = np.asarray(q[0, :, head]) @ np.asarray(k[0, [0, 2], head]).T / math.sqrt(3)
        weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found[0, :, head], weights @ np.asarray(v[0, [0, 2], head]), atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 8])
def test_convolution_equals_the_library_at_every_size(side, stride):
    ours = layers.Conv3x3(2, 5, stride=stride, rngs=nnx.Rngs(0))
    theirs = nnx.Conv(2, 5, (3, 3), stride, padding=1, rngs=nnx.Rngs(0))
    ours.bias[...] = theirs.bias[...] = normal(15, 5)
    theirs.kernel[...] = ours.kernel[...]
    x = normal(16, 2, side, side, 2)
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-5)


def test_sinusoid_has_cosines_first():
    found = layers.sinusoid(jnp.array([0.0, 7.0]), 6)
    angle = 7.0 * 10000.0 ** (-np.arange(3) / 3)
    np.testing.assert_allclose(found[1], np.concatenate([np.cos(angle), np.sin(angle)]), atol=1e-5)


def test_halve_averages_and_undoes_double():
    x = normal(14, 2, 4, 2, 3)
    np.testing.assert_allclose(layers.halve(layers.double(x)), x, atol=1e-6)
    np.testing.assert_allclose(layers.halve(x)[0, 1, 0], x[0, 2:, :2].mean(axis=(0, 1)), atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (300, 4000)], ids=["small", "large"])
def test_kernels_start_with_variance_one_over_inputs(shape):
    kernel = layers.lecun_normal(rng.root(0), shape)
    inputs = math.prod(shape[:-1])
    assert kernel.shape == shape
    assert abs(float(kernel.std()) * math.sqrt(inputs) - 1) < 4 / math.sqrt(2 * kernel.size)


def test_init_is_a_function_of_its_key_and_may_be_jitted():
    model = classifier(VIT)
    jitted = quick_jit(model.init)(rng.root(0))
    for a, b in zip(jax.tree.leaves(initial(model)), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    again, other = model.init(rng.root(0)), model.init(rng.root(1))
    assert functional.hash_weights(again) == functional.hash_weights(initial(model))
    assert functional.hash_weights(other) != functional.hash_weights(again)


def test_abstract_weights_have_the_shapes_of_real_ones():
    model = classifier(RESNET)
    real = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), initial(model))
    assert functional.abstract(model) == real
    assert set(real) == {"params", "stats"}


def test_hash_sees_names_dtypes_shapes_and_values_but_not_order():
    tree = {"a": {"b": np.arange(4, dtype=np.float32)}, "c": np.zeros((), np.float32)}
    digest = functional.hash_weights(tree)
    assert digest == functional.hash_weights({"c": jnp.zeros(()), "a": {"b": jnp.arange(4.0)}})
    leaf = tree["a"]["b"]
    for other in (leaf + 1, leaf.astype(np.int32), leaf.view(np.int32), leaf.reshape(2, 2)):
        assert functional.hash_weights(tree | {"a": {"b": other}}) != digest
    assert functional.hash_weights({"a": {"x": leaf}, "c": tree["c"]}) != digest
