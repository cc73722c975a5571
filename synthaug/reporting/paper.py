"""Numbers printed in Azizi et al. 2023 (arXiv 2304.08466), by the table they stand in; ImageNet-1K.

They are shown beside ours for orientation: the paper's FID uses Inception features, its classifiers see
1.28 M images of 1000 classes.
"""

from __future__ import annotations

from typing import NamedTuple

SOURCE = "Azizi et al. 2023"
LABEL = "published ImageNet-1K numbers, not comparable in absolute terms"


class Quality(NamedTuple):
    """A line of Table 1; Inception features, training-set size samples."""

    model: str
    resolution: int
    fid_train: float | None
    fid_val: float | None
    inception_score: float | None


class Cas(NamedTuple):
    """A column of Table 2: a ResNet-50 trained on this set, percent on the real validation images."""

    trained_on: str
    top1: float
    top5: float


class Mix(NamedTuple):
    """A line of Table 3: top-1 percent of a classifier trained on three sets."""

    model: str
    input: int
    real: float
    generated: float
    mixed: float


class Size(NamedTuple):
    """A line of Table 4: ResNet-50 top-1 percent and its deviation at a total training size."""

    copies: int
    top1_256: float
    dev_256: float
    top1_1024: float
    dev_1024: float


TABLE_1 = (
    Quality("BigGAN-deep", 64, 4.06, None, None),
    Quality("Improved DDPM", 64, 2.92, None, None),
    Quality("ADM", 64, 2.07, None, None),
    Quality("CDM", 64, 1.48, 2.48, 67.95),
    Quality("RIN", 64, 1.23, None, 66.5),
    Quality("fine-tuned Imagen", 64, 1.21, 2.51, 85.77),
    Quality("BigGAN-deep", 256, 6.9, None, 171.4),
    Quality("ADM + upsampling", 256, 7.49, None, 127.49),
    Quality("CDM", 256, 4.88, 3.76, 158.71),
    Quality("RIN", 256, 4.51, 4.51, 161.0),
    Quality("Simple Diffusion (U-ViT L)", 256, 2.77, 3.23, 211.8),
    Quality("fine-tuned Imagen", 256, 1.76, 2.81, 239.18),
)

TABLE_2 = (
    Cas("real images", 73.09, 91.47),
    Cas("BigGAN-deep", 42.65, 65.92),
    Cas("VQ-VAE-2", 54.83, 77.59),
    Cas("CDM", 63.02, 84.06),
    Cas("fine-tuned Imagen, 256 px", 64.96, 85.66),
    Cas("fine-tuned Imagen, 1024 px", 69.24, 88.10),
)

TABLE_3 = (
    Mix("ResNet-50", 224, 76.39, 69.24, 78.17),
    Mix("ResNet-101", 224, 78.15, 71.31, 79.74),
    Mix("ResNet-152", 224, 78.59, 72.38, 80.15),
    Mix("ResNet-RS-50", 160, 79.10, 70.72, 79.97),
    Mix("ResNet-RS-101", 160, 80.11, 72.73, 80.89),
    Mix("ResNet-RS-101", 190, 81.29, 73.63, 81.80),
    Mix("ResNet-RS-152", 224, 82.81, 74.46, 83.10),
    Mix("ViT-S/16", 224, 79.89, 71.88, 81.00),
    Mix("DeiT-S", 224, 78.97, 72.26, 80.49),
    Mix("DeiT-B", 224, 81.79, 74.55, 82.84),
    Mix("DeiT-B", 384, 83.16, 75.45, 83.75),
    Mix("DeiT-L", 224, 82.22, 74.60, 83.05),
)

TABLE_4 = (
    Size(0, 76.39, 0.21, 76.39, 0.21),
    Size(1, 77.61, 0.08, 78.12, 0.05),
    Size(2, 77.16, 0.04, 77.48, 0.04),
    Size(3, 76.52, 0.04, 76.75, 0.07),
    Size(4, 76.09, 0.08, 76.34, 0.13),
    Size(5, 75.81, 0.08, 75.87, 0.09),
    Size(6, 75.44, 0.06, 75.49, 0.07),
    Size(7, 75.28, 0.10, 74.72, 0.20),
    Size(8, 75.11, 0.12, 74.14, 0.13),
    Size(9, 75.04, 0.05, 73.70, 0.09),
)
