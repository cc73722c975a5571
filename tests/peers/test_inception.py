"""Inception-v3 against torch-fidelity and pytorch-fid with the same random weights, and their resize."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import types
from typing import Any

import jax
import numpy as np
import pytest

from synthaug.models import inception as network
from synthaug.weights.inception import CONVERSION, Inception, open_inception
from tests import inception_graph
from tests.test_inception import difference, draw_images

torch = pytest.importorskip("torch")
pytest.importorskip("torch_fidelity")

from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # noqa: E402
from torch_fidelity.interpolate_compat_tensorflow import (  # noqa: E402
    interpolate_bilinear_2d_like_tensorflow1x,
)

TOLERANCE = 1e-5
"""As in tests/test_inception.py; measured: 2e-6."""


@pytest.fixture(scope="module")
def pickle(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The weights as pytorch-fid publishes them, batch norms with a gain."""
    path = tmp_path_factory.mktemp("torch") / "pt_inception.pth"
    state = inception_graph.torch_state(scaled=True)
    torch.save({name: torch.from_numpy(array.copy()) for name, array in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def ours(pickle: pathlib.Path) -> Inception:
    """The same, by the documented conversion."""
    pytest.importorskip("safetensors")
    code = CONVERSION.removeprefix('python -c "').removesuffix('"').replace("FILE", pickle.stem)
    subprocess.run([sys.executable, "-c", code], cwd=pickle.parent, check=True)
    return open_inception(str(pickle.with_suffix(".safetensors")), "flax", 2)


def to_torch(images: np.ndarray) -> Any:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("side", [64, 256])
def test_features_and_logits_are_torch_fidelitys(pickle: pathlib.Path, ours: Inception, side: int) -> None:
    wanted = ["2048", "logits_unbiased"]
    peer = FeatureExtractorInceptionV3("inception", wanted, feature_extractor_weights_path=str(pickle))
    images = draw_images(2, side, side)
    features, logits = (array.numpy() for array in peer(to_torch(images)))
    found_features, _, found_logits = ours.encode(images)
    assert difference(found_features, features) < TOLERANCE
    assert difference(found_logits, logits) < TOLERANCE


def test_spatial_features_are_those_of_torch_fidelitys_layer(pickle: pathlib.Path, ours: Inception) -> None:
    peer = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(pickle))
    seen: list[Any] = []
    peer.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = draw_images(2, 64, 64)
    peer(to_torch(images))
    wanted = seen[0].numpy()[:, :7].transpose(0, 2, 3, 1).reshape(2, -1)
    assert difference(ours.encode(images)[1], wanted) < TOLERANCE


@pytest.mark.parametrize(("height", "width"), [(64, 64), (256, 200), (299, 299), (512, 512)])
def test_the_resize_is_torch_fidelitys(height: int, width: int) -> None:
    images = draw_images(2, height, width)
    wanted = interpolate_bilinear_2d_like_tensorflow1x(
        to_torch(images).float(), size=(299, 299), align_corners=False
    )
    found = np.asarray(jax.jit(network.resize)(images)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(found, wanted.numpy())


def test_features_are_pytorch_fids(
    pickle: pathlib.Path, ours: Inception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 299 px, because pytorch-fid resizes otherwise: with half-pixel centres.

    It takes its blocks from torchvision and changes some; where torchvision is absent, torch-fidelity's
    copies of these blocks stand in for them.
    """
    import torchvision

    if not hasattr(torchvision, "__version__"):
        _stand_in_for_torchvision(monkeypatch, pickle)
    pytest.importorskip("pytorch_fid")
    from pytorch_fid import inception as pytorch_fid

    state = torch.load(pickle, weights_only=True)
    monkeypatch.setattr(pytorch_fid, "load_state_dict_from_url", lambda url, progress: state)
    peer = pytorch_fid.InceptionV3().eval()
    images = draw_images(2, 299, 299)
    (features,) = peer(to_torch(images).float() / 255)
    features = features.numpy()[:, :, 0, 0]
    found, _, _ = ours.encode(images)
    # It scales to 2 x / 255 - 1 where the graph has (x - 128) / 128: not the same, on purpose, but close.
    assert TOLERANCE < difference(found, features) < 0.05
    (features,) = pytorch_fid.InceptionV3(normalize_input=False, resize_input=False).eval()(
        (to_torch(images).float() - 128) / 128
    )
    assert difference(found, features.numpy()[:, :, 0, 0]) < TOLERANCE


def _stand_in_for_torchvision(monkeypatch: pytest.MonkeyPatch, pickle: pathlib.Path) -> None:
    from torch_fidelity import feature_extractor_inceptionv3 as blocks

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            peer = FeatureExtractorInceptionV3("i", ["2048"], feature_extractor_weights_path=str(pickle))
            for name, module in peer.named_children():
                setattr(self, name, module)

    def inception_v3(**settings: Any) -> Any:
        assert settings["num_classes"] == 1008 and not settings["aux_logits"]
        return Whole()

    modules = {name: types.ModuleType(name) for name in ("torchvision", "torchvision.models")}
    inception = types.ModuleType("torchvision.models.inception")
    inception.InceptionA, inception.InceptionC = blocks.InceptionA, blocks.InceptionC  # type: ignore[attr-defined]
    inception.InceptionE = blocks.InceptionE_1  # type: ignore[attr-defined]
    modules["torchvision"].__version__ = "0.21"  # type: ignore[attr-defined]
    modules["torchvision"].models = modules["torchvision.models"]  # type: ignore[attr-defined]
    modules["torchvision.models"].inception = inception  # type: ignore[attr-defined]
    modules["torchvision.models"].inception_v3 = inception_v3  # type: ignore[attr-defined]
    for name, module in {**modules, "torchvision.models.inception": inception}.items():
        monkeypatch.setitem(sys.modules, name, module)
    # another test may have imported it with another torchvision
    monkeypatch.delitem(sys.modules, "pytorch_fid.inception", raising=False)
    monkeypatch.delitem(sys.modules, "pytorch_fid", raising=False)
