"""The published classifiers: their parts, statistics over devices, and their weights in timm's names."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from synthaug import rng
from synthaug.errors import ConfigError, DataError, RunError
from synthaug.experiment import ARCHITECTURES, Architecture, Classifier
from synthaug.models import bottleneck, vit
from synthaug.models.batch_norm import BatchNorm, drop_path, drop_rates
from synthaug.models.classifier import build_classifier
from synthaug.models.functional import Model, abstract
from synthaug.weights import adapt_classifier, open_classifier, read_classifier, timm, write_classifier
from synthaug.weights.rules import flatten
from synthaug.weights.tensors import open_tensors, write_tensors

ROOT = pathlib.Path(__file__).parent.parent
TINY = {
    "bottleneck": Architecture("bottleneck", (1, 2), 8, 0, 32, 0),
    "resnet_rs": Architecture("resnet_rs", (1, 2), 8, 0, 32, 0),
    "vit": Architecture("vit", (2,), 8, 2, 32, 0),
}
KINDS = [f"tiny_{family}" for family in TINY]


@pytest.fixture(autouse=True)
def tiny_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds networks of the three families that compile in no time."""
    for family, architecture in TINY.items():
        monkeypatch.setitem(ARCHITECTURES, f"tiny_{family}", architecture)
    for recipe in ("deit", "vit"):
        monkeypatch.setitem(ARCHITECTURES, f"{recipe}_tiny", Architecture("vit", (1,), 64, 2, 16, 0))


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def build(kind: str, resolution: int = 32, num_classes: int = 5, **settings: Any) -> Model:
    return build_classifier(
        Classifier(kind=kind, **settings), resolution=resolution, channels=3, num_classes=num_classes
    )


def random_weights(model: Model) -> dict[str, Any]:
    """Returns weights and moments none of which are zero or one."""
    numbers = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> jax.Array:
        values = 0.3 * numbers.normal(size=leaf.shape)
        name = path[-1].key
        values = np.abs(values) + 0.5 if name == "var" else values + (name == "scale")
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract(model))


def quick(function: Any) -> Any:
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def logits(model: Model, weights: Any, images: jax.Array) -> np.ndarray:
    return np.asarray(quick(lambda w, x: model.apply(w, x)[0])(weights, images))


# ------------------------------------------------------------------------------------- normalisation


def test_batch_norm_normalises_and_moves_its_moments():
    x = 3.0 + 2.0 * normal(0, 4, 5, 6, 7)
    norm = BatchNorm(7, momentum=0.8, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = normal(1, 7), normal(2, 7)
    mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    expected = (np.asarray(x) - np.asarray(mean)) / np.sqrt(np.asarray(var) + 1e-5)
    expected = expected * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    np.testing.assert_allclose(norm(x, train=True), expected, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.2 * mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.8 + 0.2 * var, rtol=1e-5)
    before = norm.mean[...]
    running = (np.asarray(x) - np.asarray(before)) / np.sqrt(np.asarray(norm.var[...]) + 1e-5)
    expected = running * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    np.testing.assert_allclose(norm(x, train=False), expected, atol=1e-5)
    assert np.array_equal(norm.mean[...], before)


def test_moments_are_f32_where_activations_are_bf16():
    norm = BatchNorm(2, momentum=0.0, rngs=nnx.Rngs(0))
    # The mean of 4096 ones is not 1 if it is added up in bfloat16.
    y = norm(jnp.ones((4096, 1, 1, 2), jnp.bfloat16), train=True)
    assert y.dtype == jnp.bfloat16 and norm.mean[...].dtype == jnp.float32
    np.testing.assert_allclose(norm.mean[...], 1.0, rtol=1e-6)


def test_momentum_is_the_settings():
    images = normal(3, 4, 32, 32, 3)
    for kind in ("resnet", "tiny_bottleneck"):
        model = build(kind, norm_momentum=0.25)
        weights = random_weights(model)
        _, stats = quick(model.apply_train)(weights, images)
        still = build(kind, norm_momentum=1.0)
        _, same = quick(still.apply_train)(weights, images)
        for name, leaf in flatten(weights["stats"]).items():
            assert np.array_equal(flatten(same)[name], leaf), name
            assert np.abs(flatten(stats)[name] - leaf).max() > 1e-3, name


SHARDED = """
import json, sys, jax, jax.numpy as jnp, numpy as np, optax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
from synthaug import experiment, parallel, rng
from synthaug.models.classifier import build_classifier
from synthaug.train.state import create, make_update
from synthaug.experiment import ARCHITECTURES, Architecture
ARCHITECTURES["tiny"] = Architecture("resnet_rs", (1, 1), 8, 0, 32, 0)
settings = experiment.Classifier(kind="tiny", drop_path=0.5, dropout=0.2)
model = build_classifier(settings, resolution=32, channels=3, num_classes=4)

def loss_fn(params, stats, batch, key):
    (logits, _), stats = model.apply_train({"params": params, "stats": stats}, batch["image"], key=key)
    one_hot = jax.nn.one_hot(batch["label"], 4)
    return optax.softmax_cross_entropy(logits, one_hot).mean(), ({}, stats)

tx = optax.sgd(0.1)
state = parallel.replicate(create(model.init(rng.root(0)), tx, with_ema=True))
update = make_update(loss_fn, tx, ema_decay=0.9)
numbers = np.random.default_rng(0)
for step in range(2):
    # the halves of the batch differ, so that their own moments would, too
    image = numbers.normal(size=(8, 32, 32, 3)) + np.repeat([0.0, 2.0], 4)[:, None, None, None]
    batch = {"image": image.astype(np.float32), "label": np.arange(8, dtype=np.int32) % 4}
    state, metrics = update(state, parallel.place(batch), rng.at(rng.root(1), step))
assert len(jax.devices()) == int(sys.argv[1])
leaves = jax.tree_util.tree_leaves_with_path({k: state[k] for k in ("stats", "ema_stats", "params")})
print(json.dumps({jax.tree_util.keystr(p): np.asarray(x, np.float64).ravel().tolist() for p, x in leaves}))
"""


def test_statistics_are_those_of_the_global_batch_on_two_devices():
    found = []
    for devices in (1, 2):
        line = [sys.executable, "-c", SHARDED, str(devices)]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert any("ema_stats" in name and "mean" in name for name in found[0])
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=1e-4, atol=1e-5, err_msg=name)


# ------------------------------------------------------------------------------------ stochastic depth


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 3))
    dropped = np.asarray(drop_path(x, 0.25, train=True, key=rng.root(0)))
    by_image = dropped.reshape(4000, -1)
    assert (by_image == by_image[:, :1]).all()
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert abs(float((by_image[:, 0] == 0).mean()) - 0.25) < 0.03  # 4.4 standard deviations
    assert np.array_equal(drop_path(x, 0.25, train=False, key=None), x)
    with pytest.raises(ValueError, match=r"drop_path = 0.25 needs a key"):
        drop_path(x, 0.25, train=True, key=None)


def test_drop_rates_rise_linearly():
    assert drop_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert drop_rates(0.3, 1) == [0.0]


@pytest.mark.parametrize("kind", ["resnet", "vit", *KINDS])
def test_stochastic_depth_is_a_function_of_its_key_in_training_only(kind):
    extra = {"patch_size": 16} if kind == "vit" else {}
    model, images = build(kind, drop_path=0.9, **extra), normal(4, 8, 32, 32, 3)
    plain = build(kind, **extra)
    weights = random_weights(model)
    train = quick(lambda key: model.apply_train(weights, images, key=key)[0][0])
    assert np.array_equal(train(rng.root(1)), train(rng.root(1)))
    assert np.abs(train(rng.root(1)) - train(rng.root(2))).max() > 1e-2
    assert np.array_equal(logits(model, weights, images), logits(plain, weights, images))


# ------------------------------------------------------------------------------------------ networks


@pytest.mark.parametrize("kind", ["resnet", "vit", *KINDS])
def test_bf16_is_near_and_its_logits_are_f32(kind):
    extra = {"patch_size": 16} if kind == "vit" else {}
    images = normal(5, 4, 32, 32, 3)
    model, half = build(kind, **extra), build(kind, compute="bf16", **extra)
    weights = random_weights(model)
    expected, found = logits(model, weights, images), logits(half, weights, images)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    (_, features), stats = quick(half.apply_train)(weights, images)
    assert features.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(stats))


@pytest.mark.parametrize("kind", ["tiny_bottleneck", "tiny_vit"])
def test_remat_changes_memory_only(kind):
    images = normal(6, 4, 32, 32, 3)
    weights = random_weights(build(kind))
    found = []
    for remat in (False, True):
        model = build(kind, remat=remat, drop_path=0.5)

        def loss(params, model=model):
            (out, _), stats = model.apply_train(weights | {"params": params}, images, key=rng.root(0))
            return jnp.square(out).sum(), stats

        gradient = jax.value_and_grad(loss, has_aux=True)
        assert str(jax.make_jaxpr(gradient)(weights["params"])).count("remat") > 0 if remat else True
        found.append(quick(gradient)(weights["params"]))
    for plain, again in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(plain, again, rtol=2e-3, atol=1e-3 * float(np.abs(plain).max() + 1))


def test_published_networks_start_silent_and_with_small_heads():
    for kind in ("tiny_bottleneck", "tiny_resnet_rs"):
        flat = flatten(build(kind).init(rng.root(0))["params"])
        last = [leaf for name, leaf in flat.items() if name.endswith("norm2/scale") and "blocks" in name]
        assert len(last) == 3 and not any(leaf.any() for leaf in last)
        assert 0.005 < float(flat["head/kernel"].std()) < 0.02


def test_transformers_start_as_their_recipes_say():
    deit = flatten(build("deit_tiny", resolution=16).init(rng.root(0))["params"])
    for name in ("layers/layer0/qkv/kernel", "layers/layer0/linear1/kernel", "patches/kernel"):
        assert float(deit[name].std()) == pytest.approx(0.02, rel=0.05)
    assert not deit["token"].any()
    plain = flatten(build("vit_tiny", resolution=16).init(rng.root(0))["params"])
    assert float(plain["layers/layer0/linear1/kernel"].std()) == pytest.approx(
        (2 / (5 * 64)) ** 0.5, rel=0.05
    )
    assert not plain["head/kernel"].any()


def test_fixed_positions_are_sines_and_cosines():
    found = vit.sincos_positions((2, 3), 8)
    # row 1, column 2: sin and cos of 2 and of 2/10000, then of 1 and of 1/10000
    angle = np.array([2.0, 2e-4])
    expected = [*np.sin(angle), *np.cos(angle), *np.sin(angle / 2), *np.cos(angle / 2)]
    np.testing.assert_allclose(found[5], expected, atol=1e-6)


def test_positions_are_interpolated_per_channel_and_the_tokens_stays():
    ramp = jnp.broadcast_to(jnp.arange(4.0)[None, :, None], (4, 4, 2)).reshape(16, 2)
    positions = jnp.concatenate([jnp.full((1, 2), 7.0), ramp])
    assert vit.resample_positions(positions, (4, 4), 1) is positions
    found = vit.resample_positions(positions, (8, 2), 1)
    assert found.shape == (17, 2) and np.array_equal(found[0], [7.0, 7.0])
    rows = np.asarray(found[1:]).reshape(8, 2, 2)
    np.testing.assert_allclose(rows, np.broadcast_to(rows[:1], rows.shape), atol=1e-6)
    np.testing.assert_allclose(rows[0, :, 0].sum(), 3.0, atol=1e-5)  # symmetric about the middle, 1.5


@pytest.mark.parametrize("kind", ["tiny_bottleneck", "tiny_resnet_rs"])
def test_activation_is_that_of_every_place_but_the_squeeze(kind, monkeypatch):
    """Model Garden's ResNet-RS has Swish where timm's has ReLU; the gates stay as they are."""
    images, plain = normal(3, 2, 32, 32, 3), build(kind)
    weights = random_weights(plain)
    found = logits(build(kind, activation="silu"), weights, images)
    assert np.abs(found - logits(plain, weights, images)).max() > 1e-2
    monkeypatch.setitem(bottleneck.ACTIVATIONS, "relu", jax.nn.silu)
    np.testing.assert_array_equal(found, logits(build(kind), weights, images))


@pytest.mark.parametrize("positions", ["learned", "sincos"])
@pytest.mark.parametrize("pool", ["token", "mean"])
def test_every_kind_of_vit_works_at_other_sizes(pool, positions):
    model = build("tiny_vit", pool=pool, positions=positions)
    weights = random_weights(model)
    params = weights["params"]
    assert ("token" in params) == (pool == "token") and ("positions" in params) == (positions == "learned")
    images = normal(7, 2, 48, 64, 3)
    found, mirrored = logits(model, weights, images), logits(model, weights, images[:, ::-1, ::-1])
    assert found.shape == (2, 5) and np.abs(found - mirrored).max() > 1e-3


# ---------------------------------------------------------------------------------- weights in files


def saved(kind: str, path: pathlib.Path, **settings: Any) -> tuple[Model, dict[str, Any]]:
    model = build(kind, **settings)
    weights = random_weights(model)
    write_classifier(path, kind, weights)
    return model, weights


def rewritten(path: pathlib.Path, change: Any) -> pathlib.Path:
    """Returns a copy of a safetensors file with other tensors."""
    there = open_tensors(path.parent, path.stem)
    tensors = {name: there.read(name) for name in there.stored}
    change(tensors)
    write_tensors(path.parent, "changed", tensors.items())
    return path.parent / "changed.safetensors"


@pytest.mark.parametrize("kind", KINDS)
def test_written_weights_are_read_bit_for_bit(kind, tmp_path):
    model, weights = saved(kind, tmp_path / "a.safetensors")
    opened = open_classifier(tmp_path / "a.safetensors", kind)
    assert (opened.num_classes, opened.resolution, opened.config.kind) == (5, 32, kind)
    read = flatten({"params": opened.params, "stats": opened.stats})
    assert read.keys() == flatten(weights).keys()
    assert all(np.array_equal(read[name], leaf) for name, leaf in flatten(weights).items())
    images = normal(8, 3, 32, 32, 3)
    np.testing.assert_allclose(opened(images), logits(model, weights, images), rtol=1e-4, atol=1e-3)
    again = {"params": opened.params, "stats": opened.stats}
    write_classifier(tmp_path / "b.safetensors", kind, again)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_fixed_positions_are_written_as_weights(tmp_path):
    model, weights = saved("tiny_vit", tmp_path / "a.safetensors", pool="mean", positions="sincos")
    opened = open_classifier(tmp_path / "a.safetensors", "tiny_vit")
    assert (opened.config.pool, opened.config.positions) == ("mean", "learned")
    images = normal(9, 2, 32, 32, 3)
    np.testing.assert_allclose(opened(images), logits(model, weights, images), atol=1e-5)


def test_half_precision_becomes_f32_and_computes_in_bf16_if_asked(tmp_path):
    _, weights = saved("tiny_bottleneck", tmp_path / "a.safetensors")

    def halve(tensors):
        for name, array in tensors.items():
            tensors[name] = array.astype(np.float16) if array.dtype == np.float32 else array

    file = rewritten(tmp_path / "a.safetensors", halve)
    opened = open_classifier(file, "tiny_bottleneck", compute="bf16")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(opened.params))
    np.testing.assert_allclose(
        opened.params["head"]["kernel"], weights["params"]["head"]["kernel"], rtol=1e-3, atol=1e-4
    )
    assert opened(normal(8, 1, 32, 32, 3)).dtype == jnp.float32 and opened.config.compute == "bf16"


def without(name):
    return lambda tensors: tensors.pop(name)


def prefixed(tensors):
    for name in list(tensors):
        tensors[f"module.{name}"] = tensors.pop(name)


def headless(tensors):
    tensors.pop("fc.weight"), tensors.pop("fc.bias")


MISFITS = {
    "missing": (without("layer2.1.bn2.running_var"), r"layer2\.1\.bn2\.running_var is missing, expected "
                r"shape \[16\]; the file is one of several shards, or incomplete"),
    "left over": (lambda t: t.update({"layer3.0.x": np.zeros(3, np.float32)}),
                  r"layer3\.0\.x of shape \[3\] is left over; the file is of another network"),
    "misshapen": (lambda t: t.update({"layer1.0.conv1.weight": np.zeros((8, 8, 3, 3), np.float32)}),
                  r"layer1\.0\.conv1\.weight has shape \[8, 8, 3, 3\], expected \[8, 8, 1, 1\]; the file"),
    "wrapped": (prefixed, r"\(\d+ of \d+ tensors are like this\); every name begins with 'module\.'"),
    "headless": (headless, r"fc\.weight is missing, expected shape \[1000, 64\].*the file has no head"),
    "not finite": (lambda t: t.update({"fc.bias": np.full(5, np.nan, np.float32)}),
                   r"fc\.bias holds numbers that are not finite"),
    "quantised": (lambda t: t.update({"fc.bias": np.zeros(5, np.int8)}), r"fc\.bias has dtype I8"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_what_is_wrong_with_a_file_is_one_line(name, tmp_path):
    change, message = MISFITS[name]
    saved("tiny_bottleneck", tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=message) as caught:
        open_classifier(rewritten(tmp_path / "a.safetensors", change), "tiny_bottleneck")
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path))


def test_a_file_of_another_model_is_named(tmp_path):
    saved("tiny_resnet_rs", tmp_path / "a.safetensors")
    with pytest.raises(DataError, match=r"holds tiny_resnet_rs and not resnet50: open it under that"):
        open_classifier(tmp_path / "a.safetensors", "resnet50")
    saved("tiny_vit", tmp_path / "b.safetensors")
    with pytest.raises(DataError, match=r"the file holds tiny_vit and not deit_s16"):
        open_classifier(tmp_path / "b.safetensors", "deit_s16")

    def distil(tensors):
        tensors["head_dist.weight"] = tensors["head.weight"]

    with pytest.raises(DataError, match=r"head_dist\.weight .* is left over; it is a distilled DeiT"):
        open_classifier(rewritten(tmp_path / "b.safetensors", distil), "tiny_vit")


def test_positions_that_are_no_square_are_refused(tmp_path):
    saved("tiny_vit", tmp_path / "a.safetensors")

    def cut(tensors):
        tensors["pos_embed"] = tensors["pos_embed"][:, :4]

    with pytest.raises(DataError, match=r"pos_embed holds 4 positions; expected a square grid"):
        open_classifier(rewritten(tmp_path / "a.safetensors", cut), "tiny_vit")


def test_wrong_names_and_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"model = 'resnet5' is unknown; did you mean 'resnet50'\?"):
        open_classifier(tmp_path, "resnet5")
    with pytest.raises(ConfigError, match=r"compute = 'f16'; expected f32 or bf16"):
        open_classifier(tmp_path, "resnet50", compute="f16")
    with pytest.raises(DataError, match=r"no such file; expected \.safetensors"):
        open_classifier(tmp_path / "x.bin", "resnet50")
    (tmp_path / "resnet50.pth").write_bytes(b"x")
    with pytest.raises(DataError, match=r"is no safetensors file; .*pickles are never loaded"):
        open_classifier(tmp_path / "resnet50.pth", "resnet50")
    with pytest.raises(DataError, match=r"has no model\.safetensors"):
        open_classifier(tmp_path, "resnet50")


@pytest.mark.parametrize(
    ("kind", "images", "message"),
    [
        (
            "tiny_bottleneck",
            np.zeros((2, 3, 32, 32), np.float32),
            r"shape \[2,3,32,32\]; expected \[B,H,W,3\]",
        ),
        ("tiny_bottleneck", np.zeros((2, 32, 32, 3), np.uint8), r"images are uint8; expected f32"),
        ("tiny_bottleneck", np.zeros((2, 31, 32, 3), np.float32), r"H and W at least 32"),
        ("tiny_bottleneck", np.zeros((0, 32, 32, 3), np.float32), r"shape \[0,32,32,3\]"),
        ("tiny_vit", np.zeros((2, 40, 32, 3), np.float32), r"H and W multiples of 16"),
        ("tiny_vit", [[1.0]], r"shape \[1,1\]"),
    ],
)
def test_images_that_do_not_fit_are_refused(kind, images, message, tmp_path):
    saved(kind, tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match=message):
        open_classifier(tmp_path / "a.safetensors", kind)(images)


def test_training_starts_from_a_file_of_another_size_or_other_classes(tmp_path):
    _, weights = saved("tiny_vit", tmp_path / "a.safetensors")
    settings = Classifier(kind="tiny_vit")
    bigger = build("tiny_vit", resolution=64, num_classes=7)
    like = bigger.init(rng.root(1))
    with pytest.raises(DataError, match=r"params/head/bias has shape \(5,\), expected \(7,\).*new head"):
        read_classifier(tmp_path / "a.safetensors", settings, like)
    read = read_classifier(tmp_path / "a.safetensors", settings, like, new_head=True)
    assert jax.tree.structure(read) == jax.tree.structure(like)
    assert np.array_equal(read["params"]["head"]["kernel"], like["params"]["head"]["kernel"])
    expected = vit.resample_positions(weights["params"]["positions"], (4, 4), 1)
    np.testing.assert_allclose(read["params"]["positions"], expected, atol=1e-6)
    assert np.array_equal(
        read["params"]["layers"]["layer1"]["qkv"]["kernel"],
        weights["params"]["layers"]["layer1"]["qkv"]["kernel"],
    )


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    weights = random_weights(build("tiny_vit"))
    with pytest.raises(DataError, match=r"init = x: has no params/blocks/.*another network"):
        adapt_classifier(weights, abstract(build("tiny_bottleneck")), "x")
    with pytest.raises(DataError, match=r"init = x: has params/token, which the network has not"):
        adapt_classifier(weights, abstract(build("tiny_vit", pool="mean")), "x")
    with pytest.raises(ConfigError, match=r"kind = resnet is none of timm's networks"):
        read_classifier(tmp_path / "a", Classifier(kind="resnet"), {})


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    _, weights = saved("tiny_vit", tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    with pytest.raises(RunError):
        write_classifier(tmp_path / "a.safetensors", "tiny_vit", weights)
    with pytest.raises(ConfigError, match=r"give the weights of resnet50"):
        write_classifier(tmp_path / "b.safetensors", "resnet50", weights)
    with pytest.raises(ConfigError, match=r"expected a name that ends in \.safetensors"):
        write_classifier(tmp_path / "b.bin", "tiny_vit", weights)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == before


def test_rules_name_every_parameter_once():
    for kind in ARCHITECTURES:
        if kind.startswith("tiny"):
            shapes = abstract(build(kind))
            made = timm.weight_rules(kind, shapes)
            assert {rule.ours for rule in made} == set(flatten(shapes))
            assert len({name for rule in made for name in rule.theirs}) == len(made)
    assert set(timm.NAMES) == {kind for kind in ARCHITECTURES if "tiny" not in kind}
