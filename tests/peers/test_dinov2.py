"""DINOv2 against transformers, timm and torch: random weights, saved by them, read here: same features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from synthaug.models.dinov2 import SIZES, DinoConfig, build_dinov2, prepare_images, resample
from synthaug.models.functional import abstract, count_parameters
from synthaug.weights.dinov2 import open_dinov2
from synthaug.weights.dinov2_names import TIMM, TRANSFORMERS, rules
from synthaug.weights.rules import flatten
from tests.tiny_dinov2 import CONFIG, random_params, write_file

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")
safetensors_torch = pytest.importorskip("safetensors.torch")
pytestmark = pytest.mark.filterwarnings("ignore")

TOLERANCE = 1e-4  # of the largest feature


def theirs(config: DinoConfig) -> Any:
    """Returns transformers' network without weights."""
    settings = transformers.Dinov2Config(
        hidden_size=config.width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.width // 64,
        image_size=14 * config.grid,
        patch_size=14,
    )
    return transformers.Dinov2Model(settings).eval()


def randomise(network: Any) -> Any:
    """Returns a network of torch with random weights none of which are zero or one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            inputs = parameter[0].numel() if parameter.ndim in (2, 4) else 25
            parameter.normal_(0, 1.2 / inputs**0.5, generator=generator)
            if "lambda" in name or "gamma" in name or ("norm" in name and name.endswith("weight")):
                parameter.add_(1)
    return network


def hub_positions(positions: Any, grid: int) -> Any:
    """Returns torch's interpolation of positions f32[1,1+n*n,D] as torch.hub's network asks for it."""
    side = int((positions.shape[1] - 1) ** 0.5)
    squares = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (grid + 0.1) / side
    made = torch.nn.functional.interpolate(squares, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions[:, :1], made.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def normalised(images: np.ndarray, dtype: Any = torch.float32) -> Any:
    """Returns what EDM2 gives to its network: torch's resize, then ImageNet's colours."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(dtype)
    x = torch.nn.functional.interpolate(x, size=(224, 224), mode="bicubic", antialias=True) / 255
    colours = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    mean, deviation = (torch.tensor(c, dtype=dtype).view(1, 3, 1, 1) for c in colours)
    return (x - mean) / deviation


def pixels(side: int, batch: int = 3) -> np.ndarray:
    return np.random.default_rng(side).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)


def close(ours: Any, torchs: Any) -> float:
    """Returns the largest difference, as a share of the largest number."""
    other = torchs.detach().numpy()
    return float(np.abs(np.asarray(ours) - other).max() / np.abs(other).max())


@pytest.mark.parametrize("side", [32, 64, 223, 224, 225, 256, 299, 512])
def test_images_are_resized_as_torch_does_it(side):
    """In f32 torch rounds its weights' positions: it is 3e-5 off its own f64, we are 5e-7 off."""
    ours = np.asarray(prepare_images(pixels(side))).transpose(0, 3, 1, 2)
    assert close(ours, normalised(pixels(side), torch.float64)) < 2e-6
    assert close(ours, normalised(pixels(side))) < 1e-4


@pytest.mark.parametrize(("side", "grid"), [(37, 16), (16, 37), (37, 36), (5, 5), (37, 1)])
def test_positions_are_those_of_the_hub(side, grid):
    positions = np.random.default_rng(0).normal(size=(1, 1 + side * side, 8)).astype(np.float32)
    expected = (
        torch.from_numpy(positions) if side == grid else hub_positions(torch.from_numpy(positions), grid)
    )
    assert close(resample(positions[0], (grid, grid)), expected[0]) < 1e-5


@pytest.mark.parametrize("side", [32, 224, 256])
@pytest.mark.parametrize("half", [False, True])
def test_features_are_those_of_transformers(side, half, tmp_path):
    network = randomise(theirs(DinoConfig(128, 3, 16)))
    if half:
        network = network.half()
    network.save_pretrained(tmp_path)
    dino = open_dinov2(tmp_path / "model.safetensors", batch_size=2)
    assert dino.config == DinoConfig(128, 3, 16)
    with torch.no_grad():
        expected = network.float()(normalised(pixels(side))).pooler_output
    assert close(dino.encode(pixels(side)), expected) < TOLERANCE


def test_features_are_those_of_the_hub_where_positions_are_interpolated(tmp_path, monkeypatch):
    network = randomise(theirs(CONFIG))
    network.save_pretrained(tmp_path)
    ours = open_dinov2(tmp_path, batch_size=4).encode(pixels(64))
    x = normalised(pixels(64))
    with torch.no_grad():
        other = close(ours, network(x).pooler_output)
        table = network.embeddings.position_embeddings
        monkeypatch.setattr(
            network.embeddings, "interpolate_pos_encoding", lambda *_: hub_positions(table, 16)
        )
        same = close(ours, network(x).pooler_output)
    assert same < TOLERANCE
    assert other > 10 * TOLERANCE  # transformers leaves the hub's offset out: other positions, other features


@pytest.mark.parametrize("grid", [16, 37])
def test_features_are_those_of_timm(grid, tmp_path):
    network = timm.create_model(
        "vit_small_patch14_dinov2", img_size=14 * grid, embed_dim=128, depth=2, num_heads=2, num_classes=0
    )
    network = randomise(network.eval())
    safetensors_torch.save_file(network.state_dict(), tmp_path / "model.safetensors")
    dino = open_dinov2(tmp_path, batch_size=3)
    assert dino.config == DinoConfig(128, 2, grid)
    if grid == 37:  # the file's positions are interpolated here as the hub does it
        small = timm.create_model(
            "vit_small_patch14_dinov2", img_size=224, embed_dim=128, depth=2, num_heads=2, num_classes=0
        )
        tensors = network.state_dict()
        small.load_state_dict({**tensors, "pos_embed": hub_positions(tensors["pos_embed"], 16)})
        network = small.eval()
    with torch.no_grad():
        expected = network(normalised(pixels(256)))
    assert close(dino.encode(pixels(256)), expected) < TOLERANCE


def test_our_tiny_file_is_read_by_transformers(tmp_path):
    """The file that other tests take for one of facebook's has the names that transformers knows."""
    write_file(tmp_path / "model.safetensors")
    network = theirs(CONFIG)
    network.save_pretrained(tmp_path / "other")
    (tmp_path / "config.json").write_bytes((tmp_path / "other" / "config.json").read_bytes())
    read = transformers.Dinov2Model.from_pretrained(tmp_path)
    table = read.embeddings.position_embeddings.detach().numpy()[0]
    np.testing.assert_array_equal(table, random_params()["positions"])


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_have_the_tensors_of_the_peers(name):
    """Names and shapes of S/14, B/14 and L/14, in both families; nothing is allocated."""
    config = SIZES[name]
    with torch.device("meta"):
        network = theirs(config)
        size = {"s": "small", "b": "base", "l": "large"}[name.removeprefix("dinov2-vit")[0]]
        other = timm.create_model(f"vit_{size}_patch14_dinov2", num_classes=0)
    found = {n: tuple(p.shape) for n, p in other.named_parameters()}
    assert found == {n: s for r in rules(config, TIMM) for n, s in zip(r.theirs, r.shapes, strict=True)}
    count = sum(p.numel() for n, p in network.named_parameters() if not n.endswith("mask_token"))
    assert count == sum(p.numel() for p in other.parameters())
    params = abstract(build_dinov2(config))["params"]
    assert count == count_parameters(params)
    assert {r.ours for r in rules(config, TRANSFORMERS)} == set(flatten(params))
