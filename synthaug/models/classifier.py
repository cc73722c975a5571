"""Builds the classifier that an experiment names."""

from __future__ import annotations

from flax import nnx

from synthaug import experiment
from synthaug.models.functional import Model, functional
from synthaug.models.resnet import ResNet
from synthaug.models.vit import ViT


def build_classifier(
    settings: experiment.Classifier, *, resolution: int, channels: int, num_classes: int
) -> Model:
    """Returns the classifier as pure functions: images f32[B,H,W,C] -> (logits f32[B,K], features f32[B,D]).

    Args:
        settings: its architecture.
        resolution: H = W of the images, px.
        channels: C of the images.
        num_classes: K.
    """

    def make(rngs: nnx.Rngs) -> nnx.Module:
        if settings.kind == "resnet":
            return ResNet(settings, channels=channels, num_classes=num_classes, rngs=rngs)
        return ViT(settings, resolution=resolution, channels=channels, num_classes=num_classes, rngs=rngs)

    return functional(make)
