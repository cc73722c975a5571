"""timm brings torchvision, which breaks what imports it (timm, diffusers) where its build is not torch's."""

import contextlib
import importlib.util

from tests.peers import torchvision_stub

if importlib.util.find_spec("torch") is not None:
    with contextlib.suppress(
        ImportError
    ):  # they look once whether torchvision is there: before its stand-in is
        import diffusers.utils.import_utils  # noqa: F401
        from transformers.utils import is_torchvision_available

        is_torchvision_available()
    torchvision_stub.install()
