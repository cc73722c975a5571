"""The networks whose features metrics compare, behind one interface: Inception, DINOv2, classifiers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from synthaug import experiment, parallel
from synthaug.data.crops import shrunk
from synthaug.data.images import to_float, to_u8
from synthaug.data.views import in_threads
from synthaug.diffusion.cascade import enlarge
from synthaug.errors import ConfigError
from synthaug.models import inception
from synthaug.models.functional import Weights
from synthaug.stages import classifiers
from synthaug.weights.batches import look_in_batches
from synthaug.weights.dinov2 import open_dinov2
from synthaug.weights.dinov2 import resize_of as dinov2_resize
from synthaug.weights.inception import NAME as INCEPTION
from synthaug.weights.inception import open_inception


class Encoded(NamedTuple):
    """What a network says of B images."""

    features: np.ndarray  # f32[B,D]
    logits: np.ndarray | None = None  # f32[B,K], of the Inception Score
    spatial: np.ndarray | None = None  # f32[B,S], of sFID


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """A network with its weights, ready to look at images of any number and size.

    Attributes:
        name: of the network and its weights' origin; stands in every result.
        sha256: of the weights.
        backend: what computes it: flax or tensorflow.
        batch_size: images that it sees at once, over all devices.
        channels: of the images that it looks at; grey ones are repeated to three.
        num_features: D.
        num_logits: K; 0 = it has none.
        num_spatial: S; 0 = it has none.
        shrink_to: larger images are first shrunk to this side, px; 0 = never.
        own_resize: from the side of images to words for what the network does to them; "none" = nothing.
        look: what it says of a whole batch u8[batch_size,H,W,channels].
        fewest_images: below so many, FID is mostly bias; 0 = there is no rule.
    """

    name: str
    sha256: str
    backend: str
    batch_size: int
    channels: int
    num_features: int
    num_logits: int
    num_spatial: int
    shrink_to: int
    own_resize: Callable[[int], str]
    look: Callable[[np.ndarray], Encoded]
    fewest_images: int = 0

    def encode(self, images: np.ndarray) -> Encoded:
        """Returns what the network says of images u8[B,H,W,C].

        The last batch is filled up with black images, so that what is said of an image depends neither on how
        many there are nor on the others.

        Raises:
            ConfigError: the images have another type or shape.
        """
        _check(images, self)
        if images.shape[3] < self.channels:
            images = np.repeat(images, self.channels, axis=3)
        found = look_in_batches(lambda batch: self.look(self._shrunk(batch)), images, self.batch_size)
        parts = [nothing(self), *(Encoded(*part) for part in found)]
        return Encoded(
            np.concatenate([part.features for part in parts]),
            _joined([part.logits for part in parts]),
            _joined([part.spatial for part in parts]),
        )

    def resize(self, resolution: int) -> str:
        """Returns words for what happens to images of a side before the network sees them."""
        if not 0 < self.shrink_to < resolution:
            return self.own_resize(resolution)
        first, then = f"area {resolution}->{self.shrink_to}, 8 bit", self.own_resize(self.shrink_to)
        return first if then == "none" else f"{first}; {then}"

    def _shrunk(self, images: np.ndarray) -> np.ndarray:
        if not 0 < self.shrink_to < min(images.shape[1:3]):
            return images
        return np.stack(in_threads(lambda image: shrunk(image, self.shrink_to), images))


def nothing(encoder: Encoder) -> Encoded:
    """Returns what is said of no images."""
    logits, spatial = (
        np.empty((0, width), np.float32) if width else None
        for width in (encoder.num_logits, encoder.num_spatial)
    )
    return Encoded(np.empty((0, encoder.num_features), np.float32), logits, spatial)


def _joined(arrays: list[np.ndarray | None]) -> np.ndarray | None:
    there = [array for array in arrays if array is not None]
    return np.concatenate(there) if there else None


def _check(images: np.ndarray, encoder: Encoder) -> None:
    shape = images.shape
    fits = images.dtype == np.uint8 and len(shape) == 4 and min(shape[1:]) >= 1
    if not fits or shape[3] not in (1, encoder.channels):
        found = f"{images.dtype}[{','.join(map(str, shape))}]"
        channels = "1" if encoder.channels == 1 else f"1 or {encoder.channels}"
        raise ConfigError(
            f"{encoder.name}: images are {found}; expected u8[B,H,W,C] with C = {channels}: compose an alpha "
            "channel over a colour first."
        )


def open_encoder(settings: experiment.Encoder) -> Encoder:
    """Returns the encoder whose weights are in a file: kind inception or dinov2.

    Raises:
        ConfigError: a classifier, which only its run can open.
        DataError: the file is missing, damaged, or of another network.
    """
    size = _whole_batch(settings.batch_size)
    if settings.kind == "inception":
        return _of_inception(settings, size)
    if settings.kind == "dinov2":
        return _of_dinov2(settings, size)
    raise ConfigError(
        f"encoder: kind = {settings.kind} is trained by a study; expected inception or dinov2, or the run."
    )


def _whole_batch(size: int) -> int:
    """Returns the next number of images that divides over the devices."""
    devices = parallel.mesh().devices.size
    return -(-size // devices) * devices


def _of_inception(settings: experiment.Encoder, size: int) -> Encoder:
    network = open_inception(settings.path, settings.backend, size, sharding=parallel.split())

    def look(images: np.ndarray) -> Encoded:
        features, spatial, logits = network.encode(images)
        return Encoded(features, logits, spatial)

    return Encoder(
        name=INCEPTION,
        sha256=network.weights_sha256,
        backend=settings.backend,
        batch_size=size,
        channels=3,
        num_features=inception.NUM_FEATURES,
        num_logits=inception.NUM_LOGITS,
        num_spatial=inception.NUM_SPATIAL,
        shrink_to=settings.shrink_to,
        own_resize=_inception_resize,
        look=look,
        fewest_images=experiment.fewest_images(settings.kind),
    )


def _inception_resize(resolution: int) -> str:
    return (
        "none"
        if resolution == inception.SIDE
        else f"TF1 bilinear without antialiasing {resolution}->299, f32"
    )


def _of_dinov2(settings: experiment.Encoder, size: int) -> Encoder:
    network = open_dinov2(settings.path, size, sharding=parallel.split())
    return Encoder(
        name=network.name,
        sha256=network.weights_sha256,
        backend="flax",
        batch_size=size,
        channels=3,
        num_features=network.num_features,
        num_logits=0,
        num_spatial=0,
        shrink_to=settings.shrink_to,
        own_resize=dinov2_resize,
        look=lambda images: Encoded(network.encode(images)),
    )


def of_classifier(
    settings: experiment.Encoder, weights: Weights, sha256: str, *, resolution: int, channels: int
) -> Encoder:
    """Returns a classifier as an encoder: features are what its head sees, logits those of its classes.

    Args:
        settings: of the encoder.
        weights: of the classifier.
        sha256: of the weights.
        resolution: side that images are enlarged to, px.
        channels: of the images that it was trained on.
    """
    model, placed = settings.classifier, parallel.replicate(weights)
    num_features, num_classes = weights["params"]["head"]["kernel"].shape
    size = _whole_batch(settings.batch_size)

    def look(images: np.ndarray) -> Encoded:
        batches = [enlarge_u8(images, resolution)]
        logits, features = classifiers.predict(model, placed, batches, num_classes, size)
        return Encoded(features, logits)

    return Encoder(
        name=f"classifier ({model.kind} trained on real images, penultimate layer)",
        sha256=sha256,
        backend="flax",
        batch_size=size,
        channels=channels,
        num_features=num_features,
        num_logits=num_classes,
        num_spatial=0,
        shrink_to=settings.shrink_to,
        own_resize=functools.partial(_enlarging, resolution),
        look=look,
    )


def enlarge_u8(images: np.ndarray, resolution: int) -> np.ndarray:
    """Returns u8[N,H,W,C]: images u8[N,h,w,C] enlarged bilinearly, or as they are.

    Raises:
        ConfigError: they are larger than that.
    """
    if images.shape[1:3] == (resolution, resolution):
        return images
    return np.asarray(to_u8(jax.device_get(enlarge(to_float(images), resolution))))


def _enlarging(side: int, resolution: int) -> str:
    return "none" if resolution == side else f"bilinear {resolution}->{side}, 8 bit"
