"""Inception-v3 against the frozen graph itself, run by tensorflow with random weights; and its files."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthaug.errors import ConfigError, DataError
from synthaug.models import inception as network
from synthaug.weights.inception import Inception, check_inception, open_inception, read_inception
from synthaug.weights.inception_graph import graph_constants, load_tensorflow, read_graph
from tests import inception_graph

TOLERANCE = 1e-5
"""Largest difference from the graph by its largest value; measured: 3e-6. The issue asks for 1e-4."""

BATCH = 3


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return inception_graph.write_graph(tmp_path_factory.mktemp("graph") / "classify_image_graph_def.pb")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return inception_graph.write_state(tmp_path_factory.mktemp("state") / "pt_inception.safetensors")


@pytest.fixture(scope="module")
def flax(state: pathlib.Path) -> Inception:
    return open_inception(str(state), "flax", BATCH)


@pytest.fixture(scope="module")
def gold(graph: pathlib.Path) -> Inception:
    return open_inception(str(graph), "tensorflow", BATCH)


def draw_images(number: int, height: int, width: int) -> np.ndarray:
    """Returns noise, with a smooth image and a white one as the first two."""
    images = np.random.default_rng(height).integers(0, 256, (number, height, width, 3), dtype=np.uint8)
    images[0] = np.linspace(0, 255, width).astype(np.uint8)[None, :, None]
    images[1] = 255
    return images


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the largest difference by the largest value."""
    assert found.shape == wanted.shape and found.dtype == wanted.dtype == np.float32
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


# ------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("side", [64, 256, 299])
def test_features_map_and_logits_are_the_graphs(flax: Inception, gold: Inception, side: int) -> None:
    images = draw_images(BATCH, side, side)
    for name, found, wanted in zip(
        ("features", "spatial", "logits"), flax.encode(images), gold.encode(images), strict=True
    ):
        assert np.abs(wanted).max() > 1.0  # random weights keep the signal: a dead network would agree
        assert difference(found, wanted) < TOLERANCE, name
        if name == "features":  # and one by one
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6 * float(wanted.max()))


def test_spatial_features_lie_as_in_adms_evaluator(graph: pathlib.Path, flax: Inception) -> None:
    """The evaluator's own steps: fetch mixed_6/conv:0, the first seven channels, flattened image by image."""
    tf = load_tensorflow()
    images = draw_images(BATCH, 64, 64)
    with tf.Graph().as_default() as whole:
        fed = tf.compat.v1.placeholder(tf.float32, (None, None, None, 3))
        (there,) = tf.import_graph_def(
            read_graph(graph), input_map={"ExpandDims:0": fed}, return_elements=["mixed_6/conv:0"]
        )
        with tf.compat.v1.Session(graph=whole) as session:
            found = session.run(there[..., :7], {fed: images.astype(np.float32)})
    assert found.shape == (BATCH, 17, 17, 7)
    _, spatial, _ = flax.encode(images)
    assert difference(spatial, found.reshape(BATCH, -1)) < TOLERANCE


def test_logits_are_the_product_without_bias(flax: Inception) -> None:
    features, _, logits = flax.encode(draw_images(BATCH, 64, 64))
    assert difference(logits, features @ inception_graph.constants()["softmax/weights"]) < TOLERANCE


def test_an_image_has_the_same_bits_alone_and_among_others(flax: Inception, gold: Inception) -> None:
    images = draw_images(BATCH + 2, 64, 64)
    for encoder in (flax, gold):
        together = encoder.encode(images)  # a whole batch, and one that is filled up
        assert [len(array) for array in together] == [BATCH + 2] * 3
        for i in (1, BATCH + 1):
            alone = encoder.encode(images[i : i + 1])
            for one, many in zip(alone, together, strict=True):
                np.testing.assert_array_equal(one[0], many[i])


@pytest.mark.parametrize("pool", ["average", "max", "shrinking max"])
@pytest.mark.parametrize("side", [8, 17])
def test_pools_are_tensorflows(pool: str, side: int) -> None:
    tf = load_tensorflow()
    x = np.random.default_rng(0).normal(size=(2, side, side, 5)).astype(np.float32) - 3.0
    if pool == "average":
        found, wanted = network._average_pool(jnp.asarray(x)), tf.nn.avg_pool2d(x, 3, 1, "SAME")
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6)
        return
    stride, padding = (1, "SAME") if pool == "max" else (2, "VALID")
    found, wanted = network._max_pool(jnp.asarray(x), stride), tf.nn.max_pool2d(x, 3, stride, padding)
    np.testing.assert_array_equal(found, wanted.numpy())


SIZES = [
    (64, 64),
    (256, 256),
    (299, 299),
    (512, 512),
    (1024, 1024),
    (32, 32),
    (33, 77),
    (600, 301),
    (1, 1),
    (2, 5),
]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_resize_has_the_bits_of_tensorflow_1(height: int, width: int) -> None:
    tf = load_tensorflow()
    images = draw_images(3, height, width)
    wanted = tf.compat.v1.image.resize_bilinear(images.astype(np.float32), (299, 299), align_corners=False)
    found = jax.jit(network.resize)(images)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(found), wanted.numpy())


# --------------------------------------------------------------------------------------- the files


def test_both_files_give_the_same_weights_and_hash(
    graph: pathlib.Path, flax: Inception, gold: Inception
) -> None:
    assert flax.weights_sha256 == gold.weights_sha256
    assert len(flax.weights_sha256) == 64


def test_another_weight_gives_another_hash(tmp_path: pathlib.Path, flax: Inception) -> None:
    weights = dict(inception_graph.constants())
    weights["mixed_4/tower/conv/batchnorm/beta"] = weights["mixed_4/tower/conv/batchnorm/beta"] + np.float32(
        1
    )
    other = inception_graph.write_state(tmp_path / "other.safetensors", weights)
    assert open_inception(str(other), "flax", BATCH).weights_sha256 != flax.weights_sha256


@pytest.mark.parametrize("scaled", [False, True])
def test_gamma_counts_where_the_graph_multiplies_by_it(graph: pathlib.Path, scaled: bool) -> None:
    """That tensorflow does not multiply is seen above: gammas are random there, and features agree."""
    tree = read_graph(graph)
    for node in tree.node:
        if node.op == "BatchNormWithGlobalNormalization":
            node.attr["scale_after_normalization"].b = scaled
    tensors, rules = graph_constants(graph, tree)
    gamma = inception_graph.constants()["conv_2/batchnorm/gamma"]
    (rule,) = [rule for rule in rules if rule.ours == "params/units/conv_2/scale"]
    found = rule.load([tensors.read(name) for name in rule.theirs])
    np.testing.assert_array_equal(found, gamma if scaled else np.ones_like(gamma))


def test_a_batch_may_lie_on_several_devices(
    tmp_path: pathlib.Path, state: pathlib.Path, flax: Inception
) -> None:
    images = draw_images(4, 64, 64)
    np.save(tmp_path / "images.npy", images)
    code = f"""
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from synthaug.weights.inception import open_inception
sharding = NamedSharding(jax.make_mesh((2,), ("data",)), PartitionSpec("data"))
inception = open_inception({str(state)!r}, "flax", 4, sharding=sharding)
features, spatial, logits = inception.encode(np.load({str(tmp_path / "images.npy")!r}))
np.savez({str(tmp_path / "found.npz")!r}, features=features, spatial=spatial, logits=logits)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with np.load(tmp_path / "found.npz") as found:
        for array, wanted in zip(found.values(), flax.encode(images), strict=True):
            assert difference(array, wanted) < TOLERANCE


# ------------------------------------------------------------------------------------ what is refused


def test_images_of_another_kind_are_refused(flax: Inception) -> None:
    for images in (
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((1, 8, 8, 1), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ):
        with pytest.raises(ConfigError, match=r"expected u8\[B,H,W,3\]"):
            flax.encode(images)


def test_backends_are_checked(state: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="expected one of flax, tensorflow"):
        open_inception(str(state), "torch", 1)
    with pytest.raises(ConfigError, match=r"runs the frozen graph; name classify_image_graph_def\.pb"):
        open_inception(str(state), "tensorflow", 1)


def test_files_that_are_none_are_named(tmp_path: pathlib.Path, graph: pathlib.Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_inception(str(tmp_path / "absent.pb"), "flax", 1)
    (tmp_path / "cut.pb").write_bytes(graph.read_bytes()[:1_000_000])
    with pytest.raises(DataError, match="is no TensorFlow graph, or was cut off"):
        open_inception(str(tmp_path / "cut.pb"), "flax", 1)
    (tmp_path / "text.txt").write_text("weights")
    with pytest.raises(DataError, match=r"expected classify_image_graph_def\.pb or safetensors"):
        open_inception(str(tmp_path / "text.txt"), "flax", 1)


def test_a_pickle_is_refused_with_the_command_that_converts_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    path.write_bytes(b"never read")
    with pytest.raises(DataError, match=r"is a pickle.*convert it: python -c .*6726825d\.safetensors"):
        open_inception(str(path), "flax", 1)


def test_another_networks_safetensors_is_refused(tmp_path: pathlib.Path) -> None:
    weights = dict(inception_graph.constants())
    weights["softmax/weights"] = weights["softmax/weights"][:, :1000]  # torchvision's has 1000 classes
    path = inception_graph.write_state(tmp_path / "other.safetensors", weights)
    with pytest.raises(DataError, match=r"fc.weight has shape \[1000, 2048\], expected shape \[1008, 2048\]"):
        read_inception(path)


def test_another_graph_is_refused(tmp_path: pathlib.Path, graph: pathlib.Path) -> None:
    def refused(change: str, message: str) -> None:
        changed = read_graph(graph)
        nodes = {node.name: node for node in changed.node}
        if change == "missing":
            changed.node.remove(nodes["mixed_5/tower_1/conv_3/conv2d_params"])
        elif change == "pool":
            nodes["mixed_10/tower_2/pool"].op = "AvgPool"
        elif change == "epsilon":
            nodes["mixed/conv/batchnorm"].attr["variance_epsilon"].f = 1e-5
        else:
            nan = np.full(32, np.nan, np.float32)
            tensor = load_tensorflow().make_tensor_proto(nan)
            nodes["conv_1/batchnorm/beta"].attr["value"].tensor.CopyFrom(tensor)
        (tmp_path / "changed.pb").write_bytes(changed.SerializeToString())
        with pytest.raises(DataError, match=message):
            open_inception(str(tmp_path / "changed.pb"), "flax", 1)

    refused("missing", "mixed_5/tower_1/conv_3/conv2d_params is missing, expected shape .*1, 160, 160")
    refused("pool", "mixed_10/tower_2/pool is AvgPool, expected MaxPool")
    refused("epsilon", "mixed/conv/batchnorm has epsilon 1e-05, expected 0.001")
    refused("nan", "conv_1/batchnorm/beta holds numbers that are not finite")


# ---------------------------------------------------------------------------- a look before any work


def test_whole_files_pass_a_look_at_their_names(graph: pathlib.Path, state: pathlib.Path) -> None:
    for path in (graph, state):
        before = time.process_time()
        check_inception(str(path))
        assert time.process_time() - before < 1.0  # reading the 95 MB takes longer


def test_a_look_needs_no_tensorflow(graph: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    load_tensorflow.cache_clear()
    check_inception(str(graph))


@pytest.mark.parametrize("length", [0, 1, 8, 1_000_000, -1])
def test_a_graph_that_is_cut_off_anywhere_is_found_by_a_look(
    tmp_path: pathlib.Path, graph: pathlib.Path, length: int
) -> None:
    (tmp_path / "cut.pb").write_bytes(graph.read_bytes()[:length])
    with pytest.raises(DataError, match="is no TensorFlow graph, or was cut off") as found:
        check_inception(str(tmp_path / "cut.pb"))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.pb", b"these are no weights", "is no TensorFlow graph"),
        ("zeros.pb", bytes(1000), "is no TensorFlow graph"),
        ("ones.pb", b"\xff" * 1000, "is no TensorFlow graph"),
        ("pages.pb", b"\n\x03\n\x01a", r"softmax/weights is missing \(\d+ of \d+ nodes are\)"),
        ("text.safetensors", b"these are no weights", "it was cut off or is no safetensors file"),
        ("empty.safetensors", b"", "has 0 bytes and no table"),
    ],
)
def test_junk_is_found_by_a_look(tmp_path: pathlib.Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        check_inception(str(tmp_path / name))


def test_a_folder_is_found_by_a_look(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match="is no file; expected classify_image_graph_def"):
        check_inception(str(tmp_path))


def test_other_networks_are_found_by_a_look(
    tmp_path: pathlib.Path, graph: pathlib.Path, state: pathlib.Path
) -> None:
    changed = read_graph(graph)
    nodes = {node.name: node for node in changed.node}
    nodes["mixed_10/tower_2/pool"].op = "AvgPool"
    (tmp_path / "later.pb").write_bytes(changed.SerializeToString())
    with pytest.raises(DataError, match="is AvgPool, expected MaxPool"):
        check_inception(str(tmp_path / "later.pb"))
    nodes["mixed_10/tower_2/pool"].op = "MaxPool"
    changed.node.remove(nodes["mixed_5/tower_1/conv_3/conv2d_params"])
    (tmp_path / "less.pb").write_bytes(changed.SerializeToString())
    with pytest.raises(DataError, match=r"mixed_5/tower_1/conv_3/conv2d_params is missing \(1 of"):
        check_inception(str(tmp_path / "less.pb"))
    weights = dict(inception_graph.constants())
    weights["softmax/weights"] = weights["softmax/weights"][:, :1000]
    other = inception_graph.write_state(tmp_path / "other.safetensors", weights)
    with pytest.raises(DataError, match=r"fc.weight has shape \[1000, 2048\], expected"):
        check_inception(str(other))
    (tmp_path / "cut.safetensors").write_bytes(state.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"cut\.safetensors"):
        check_inception(str(tmp_path / "cut.safetensors"))
