"""Builds the classifier that an experiment names."""

from __future__ import annotations

from flax import nnx

from synthaug import experiment
from synthaug.models.bottleneck import BottleneckResNet
from synthaug.models.functional import Model, functional
from synthaug.models.resnet import ResNet
from synthaug.models.vit import ViT


def build_classifier(
    settings: experiment.Classifier, *, resolution: int, channels: int, num_classes: int
) -> Model:
    """Returns the classifier as pure functions: images f32[B,H,W,C] -> (logits f32[B,K], features f32[B,D]).

    Args:
        settings: its architecture.
        resolution: H = W of the images in training, px; other sizes may be evaluated.
        channels: C of the images.
        num_classes: K.
    """
    architecture = settings.architecture
    family = architecture.family if architecture else settings.kind

    def make(rngs: nnx.Rngs) -> nnx.Module:
        if family == "resnet":
            return ResNet(settings, channels=channels, num_classes=num_classes, rngs=rngs)
        if family == "vit":
            return ViT(settings, resolution=resolution, channels=channels, num_classes=num_classes, rngs=rngs)
        return BottleneckResNet(settings, channels=channels, num_classes=num_classes, rngs=rngs)

    return functional(make)
