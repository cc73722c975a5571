"""The one way in for a `.pt` file: ADM was published as such. torch reads it, as tensors and nothing else."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from synthaug.errors import DataError
from synthaug.weights.tensors import Stored, Tensors

SUFFIXES = (".pt", ".pth")
_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


class PickledTensors(Tensors):
    """The tensors of a state dict that torch has loaded."""

    def __init__(self, path: pathlib.Path, tensors: dict[str, Any]) -> None:
        stored = {
            name: Stored(path, _dtype(tensor), tuple(tensor.shape), 0, 0) for name, tensor in tensors.items()
        }
        super().__init__(path, stored)
        self._tensors = tensors

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor in memory of its own, f32."""
        return np.array(self._tensors[name].detach().float().numpy())


def _dtype(tensor: Any) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    return _NAMES.get(name, name)


def open_pickled(path: pathlib.Path) -> PickledTensors:
    """Returns the tensors of a `.pt` file with a state dict.

    torch's own loader for weights is used, which runs no code of the file.

    Raises:
        DataError: torch is not installed, or the file holds something else.
    """
    try:
        import torch  # an extra: nothing else here needs it
    except ImportError:
        raise DataError(
            f"{path}: reading a .pt file needs torch; install it (pip install 'synthaug[peers]'), or convert "
            "the file to safetensors elsewhere."
        ) from None
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no error class of its own for a file it refuses
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DataError(f"{path}: torch refuses it as weights ({reason}); fetch it again.") from None
    if not isinstance(tree, dict) or not all(isinstance(v, torch.Tensor) for v in tree.values()) or not tree:
        raise DataError(f"{path}: is no state dict of tensors by name; save `model.state_dict()` instead.")
    return PickledTensors(path, tree)
