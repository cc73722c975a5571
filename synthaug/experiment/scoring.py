"""How image sets are scored: the network behind the metrics, and the protocol."""

from __future__ import annotations

import dataclasses

from synthaug.config import knob
from synthaug.experiment.classifier import Classifier

ENCODERS = ("classifier", "inception", "dinov2")

SMALLEST_INCEPTION = 2048
"""Images below which Inception's 2048 features have no full covariance, and FID is mostly bias."""


def fewest_images(kind: str) -> int:
    """Returns below how many images a FID of this kind of encoder is mostly bias; 0 = there is no rule."""
    return SMALLEST_INCEPTION if kind == "inception" else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
    """The network whose features the metrics compare."""

    kind: str = knob(
        "classifier",
        "inception: of FID, sFID and the Inception Score; dinov2: of FD-DINOv2; classifier: trained by the "
        "study on its real images, for data that Inception does not know",
        choices=ENCODERS,
    )
    path: str = knob(
        "", "weights: inception's classify_image_graph_def.pb or safetensors; dinov2's safetensors"
    )
    backend: str = knob(
        "flax",
        "inception: flax, on any device, or tensorflow, the frozen graph itself on the CPU",
        choices=("flax", "tensorflow"),
    )
    shrink_to: int = knob(
        0,
        "larger images are first shrunk to this side by exact area means; 0 = never. Inception "
        "resizes without anti-aliasing and would skip most pixels of 1024 px",
        unit="px",
        at_least=0,
    )
    batch_size: int = knob(64, "images encoded at once, over all devices", unit="images", at_least=1)
    classifier: Classifier = knob(
        Classifier(kind="resnet"), "kind = classifier: the network; its penultimate layer gives the features"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Metrics of image sets."""

    encoder: Encoder = knob(Encoder(), "the encoder of the sweep, the filter and the score stage")
    further: dict[str, Encoder] = knob({}, "further encoders by name, for the score stage alone, e.g. dinov2")
    splits: int = knob(10, "equal splits of the Inception Score", at_least=1)
    neighbours: int = knob(3, "k of precision, recall, density and coverage", at_least=1)
    max_images: int = knob(
        10000, "images per set in precision, recall, density, coverage and KID", unit="images", at_least=2
    )
    kid_subsets: int = knob(100, "draws that KID is the mean of", at_least=1)
    kid_subset_size: int = knob(1000, "images of each draw; of smaller sets all", unit="images", at_least=2)
    sizes: tuple[int, ...] = knob(
        (), "also FID of the first so many images in random order; from 3 sizes on, FID-infinity", at_least=2
    )
    allow_small_n: bool = knob(
        False, f"accept the FID of Inception for fewer than {SMALLEST_INCEPTION} images"
    )
    images_per_part: int = knob(50_000, "images that one job encodes", unit="images", at_least=1)

    def encoders(self) -> dict[str, Encoder]:
        """Returns every encoder by its knob."""
        return {
            "score.encoder": self.encoder,
            **{f"score.further.{name}": one for name, one in self.further.items()},
        }

    def trained(self) -> dict[str, Classifier]:
        """Returns the networks that a study trains to be encoders, by their knobs."""
        return {
            f"{knob}.classifier": one.classifier
            for knob, one in self.encoders().items()
            if one.kind == "classifier"
        }
