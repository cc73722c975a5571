"""The classifiers against timm: random weights and moments, saved by timm, read here, the same logits."""

from __future__ import annotations

import gc
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from synthaug.experiment import ARCHITECTURES, Classifier
from synthaug.models.classifier import build_classifier
from synthaug.models.functional import abstract
from synthaug.weights import adapt_classifier, open_classifier, read_classifier, write_classifier
from synthaug.weights import timm as names
from synthaug.weights.tensors import open_tensors

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
safetensors_torch = pytest.importorskip("safetensors.torch")
pytestmark = pytest.mark.filterwarnings("ignore")

TOLERANCE = 1e-4  # of the largest logit
# Every network at the sizes of Table 3; the last number is the batch.
CASES = [
    ("resnet50", 224, 2),
    ("resnet101", 224, 2),
    ("resnet152", 224, 2),
    ("resnetrs50", 160, 2),
    ("resnetrs101", 160, 2),
    ("resnetrs101", 192, 2),
    ("resnetrs152", 224, 2),
    ("vit_s16", 224, 2),
    ("deit_s16", 224, 2),
    ("deit_b16", 224, 2),
    ("deit_b16", 384, 1),
    ("deit_l16", 224, 1),
]


def peer(model: str, **changes: Any) -> Any:
    """Returns timm's network with random weights and batch statistics, none of which are zero or one."""
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(len(model))
    with torch.device("meta"):  # timm's own random start takes longer than all the rest
        network = timm.create_model(names.NAMES[model], **changes).eval()
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            inputs = parameter[0].numel() if parameter.ndim in (2, 4) else 1000
            parameter.normal_(0, 1.2 / inputs**0.5, generator=generator)
            if parameter.ndim == 1 and name.endswith("weight"):  # the scale of a norm
                parameter.add_(1)
        for name, moment in network.named_buffers():
            if name.endswith("running_mean"):
                moment.normal_(0, 0.2, generator=generator)
            elif name.endswith("running_var"):
                moment.uniform_(0.5, 2.0, generator=generator)
            else:
                moment.fill_(7)
    return network


def images(size: int, batch: int, width: int = 0) -> np.ndarray:
    shape = (batch, size, width or size, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def of_peer(network: Any, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()


def saved(network: Any, path: pathlib.Path) -> pathlib.Path:
    safetensors_torch.save_file(network.state_dict(), path)
    return path


def check(found: Any, expected: np.ndarray) -> None:
    assert expected.std() > 1e-2, "the network's output says nothing"
    assert np.abs(np.asarray(found) - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize(("model", "size", "batch"), CASES)
def test_logits_are_those_of_timm(model, size, batch, tmp_path):
    is_vit = ARCHITECTURES[model].family == "vit"
    network = peer(model, **({"img_size": size} if is_vit else {}))
    x = images(size, batch)
    expected, file = of_peer(network, x), saved(network, tmp_path / "model.safetensors")
    published = sum(p.numel() for p in network.parameters())
    del network
    gc.collect()
    ours = open_classifier(file, model)
    assert (ours.num_classes, ours.resolution) == (1000, size if is_vit else ARCHITECTURES[model].size)
    count = sum(leaf.size for leaf in jax.tree.leaves(ours.params))
    assert count == published
    if size == ARCHITECTURES[model].size:
        assert count == ARCHITECTURES[model].parameters
    check(ours(x), expected)
    del ours
    jax.clear_caches()
    gc.collect()


@pytest.mark.parametrize(
    ("model", "size", "width"),
    [("resnet50", 97, 130), ("resnetrs50", 75, 100), ("vit_s16", 160, 96), ("deit_s16", 256, 288)],
)
def test_logits_at_another_size_are_those_of_timm(model, size, width, tmp_path):
    changes = {"num_classes": 7}
    if ARCHITECTURES[model].family == "vit":
        changes["dynamic_img_size"] = True  # timm then interpolates the positions as we do
    network, x = peer(model, **changes), images(size, 2, width)
    ours = open_classifier(saved(network, tmp_path / "model.safetensors"), model)
    assert ours.num_classes == 7
    check(ours(x), of_peer(network, x))


@pytest.mark.parametrize("model", ["resnet50", "resnetrs50", "deit_s16"])
def test_tensors_survive_the_round_trip_bit_for_bit(model, tmp_path):
    network = peer(model, num_classes=5)
    ours = open_classifier(saved(network, tmp_path / "model.safetensors"), model)
    write_classifier(tmp_path / "ours.safetensors", model, {"params": ours.params, "stats": ours.stats})
    written, there = safetensors_torch.load_file(tmp_path / "ours.safetensors"), network.state_dict()
    assert written.keys() == there.keys()
    for name, tensor in there.items():
        counts = name.endswith("num_batches_tracked")  # mean nothing here, and are 0
        assert written[name].dtype == tensor.dtype and written[name].shape == tensor.shape
        assert torch.equal(written[name], torch.zeros_like(tensor) if counts else tensor), name


@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_a_vit_with_the_mean_as_features_loads_in_timm(positions, tmp_path):
    # big_vision's variant; in timm it is a transformer without class token that normalises before the mean.
    settings = Classifier(kind="vit_s16", pool="mean", positions=positions)
    model = build_classifier(settings, resolution=64, channels=3, num_classes=4)
    numbers = np.random.default_rng(0)
    weights = jax.tree.map(
        lambda x: (1.2 / 384**0.5 * numbers.normal(size=x.shape)).astype(np.float32), abstract(model)
    )
    file = tmp_path / "mine.safetensors"
    write_classifier(file, "vit_s16", weights, size=64)
    network = timm.create_model(
        "vit_small_patch16_224",
        img_size=64,
        num_classes=4,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
    ).eval()
    network.load_state_dict(safetensors_torch.load_file(file))
    x = images(64, 2)
    expected = of_peer(network, x)
    check(jax.jit(lambda w, x: model.apply(w, x)[0])(weights, x), expected)
    check(open_classifier(file, "vit_s16")(x), expected)


def test_weights_of_224_px_start_a_network_of_384_px_as_in_timm(tmp_path):
    network = peer("deit_s16")
    file = saved(network, tmp_path / "model.safetensors")
    bigger = timm.create_model("deit_small_patch16_224", img_size=384)
    state = timm.models.vision_transformer.checkpoint_filter_fn(network.state_dict(), bigger)
    bigger.load_state_dict(state)
    settings = Classifier(kind="deit_s16")
    model = build_classifier(settings, resolution=384, channels=3, num_classes=1000)
    read = read_classifier(file, settings, abstract(model))
    positions = bigger.pos_embed.detach().numpy()[0]
    assert read["params"]["positions"].shape == positions.shape == (577, 384)
    np.testing.assert_allclose(read["params"]["positions"], positions, atol=1e-6)
    again = adapt_classifier(read, abstract(model), "x")
    assert np.array_equal(again["params"]["positions"], read["params"]["positions"])


def test_shards_and_half_precision_are_read(tmp_path):
    network = peer("resnet50", num_classes=3)
    halved = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    safetensors_torch.save_file(halved, tmp_path / "model.safetensors")
    assert open_tensors(tmp_path, "model").dtype("conv1.weight") == "F16"
    x = images(64, 2)
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in halved.items()})
    check(open_classifier(tmp_path, "resnet50")(x), of_peer(network, x))
