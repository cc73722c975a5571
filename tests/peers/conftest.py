"""timm brings torchvision, which breaks what imports it (timm, diffusers) where its build is not torch's."""

import importlib.util

from tests.peers import torchvision_stub

if importlib.util.find_spec("torch") is not None:
    torchvision_stub.install()
