"""Numbers of Azizi et al. 2023 (arXiv 2304.08466), by the table or figure they stand in; ImageNet-1K.

Tables hold printed numbers. What begins with DIGITISED was read off a figure, to about 0.05 of FID, 0.2
points of accuracy and 1 of Inception Score. Which of our rows may be set against which number is decided in
`comparable`, not here.
"""

from __future__ import annotations

from typing import NamedTuple

SOURCE = "Azizi et al. 2023"
OWN = "fine-tuned Imagen"
"""The paper's own generator; the other models are its points of comparison."""


class Value(NamedTuple):
    """A printed number and its deviation, where the paper prints one."""

    mean: float
    deviation: float | None = None


class Quality(NamedTuple):
    """A line of Table 1; Inception features, unguided baselines, sets of (most likely) 1.2 M images."""

    model: str
    resolution: int  # px
    fid_train: float | None
    fid_val: float | None
    inception_score: Value | None


class Cas(NamedTuple):
    """A column of Table 2: a ResNet-50 trained on this set, percent on the real validation images."""

    trained_on: str
    resolution: int  # px of the set; 0 where the paper does not say
    top1: float
    top5: float


class Mix(NamedTuple):
    """A line of Table 3: top-1 percent of a classifier trained on three sets."""

    name: str  # ours, as in jobs/augment.yaml
    model: str
    input: int  # px
    parameters: float  # millions, as printed
    real: float
    generated: float
    mixed: float
    delta: float  # as printed


class Size(NamedTuple):
    """A line of Table 4: ResNet-50 top-1 percent at a total training size."""

    copies: int  # of 1.2 M generated images, beside 1.2 M real ones
    top1_256: Value
    top1_1024: Value


def _quality(model: str, px: int, train: float | None, val: float | None, *score: float) -> Quality:
    return Quality(model, px, train, val, Value(*score) if score else None)


TABLE_1 = (
    _quality("BigGAN-deep", 64, 4.06, None),
    _quality("Improved DDPM", 64, 2.92, None),
    _quality("ADM", 64, 2.07, None),
    _quality("CDM", 64, 1.48, 2.48, 67.95, 1.97),
    _quality("RIN", 64, 1.23, None, 66.5),
    _quality("RIN + noise schedule", 64, 2.04, None, 55.8),
    _quality(OWN, 64, 1.21, 2.51, 85.77, 0.06),
    _quality("BigGAN-deep", 256, 6.9, None, 171.4, 2.00),
    _quality("VQ-VAE-2", 256, 31.11, None),
    _quality("SR3", 256, 11.30, None),
    _quality("LDM-4", 256, 10.56, None, 103.49),
    _quality("DiT-XL/2", 256, 9.62, None, 121.5),
    _quality("ADM", 256, 10.94, None, 100.98),
    _quality("ADM + upsampling", 256, 7.49, None, 127.49),
    _quality("CDM", 256, 4.88, 3.76, 158.71, 2.26),
    _quality("RIN", 256, 4.51, 4.51, 161.0),
    _quality("RIN + noise schedule", 256, 3.52, None, 186.2),
    _quality("Simple Diffusion (U-Net)", 256, 3.76, 2.88, 171.6, 3.07),
    _quality("Simple Diffusion (U-ViT L)", 256, 2.77, 3.23, 211.8, 2.93),
    _quality(OWN, 256, 1.76, 2.81, 239.18, 1.14),
)

REAL = "real images"
TABLE_2 = (
    Cas(REAL, 256, 73.09, 91.47),  # Fig. 1 prints 73.59, a typo
    Cas("BigGAN-deep", 256, 42.65, 65.92),
    Cas("VQ-VAE-2", 256, 54.83, 77.59),
    Cas("CDM", 256, 63.02, 84.06),
    Cas(OWN, 256, 64.96, 85.66),
    Cas(OWN, 1024, 69.24, 88.10),
)

TABLE_3 = (
    Mix("resnet50", "ResNet-50", 224, 36, 76.39, 69.24, 78.17, 1.78),  # a plain ResNet-50 has 25.6 M
    Mix("resnet101", "ResNet-101", 224, 45, 78.15, 71.31, 79.74, 1.59),
    Mix("resnet152", "ResNet-152", 224, 64, 78.59, 72.38, 80.15, 1.56),
    Mix("resnetrs50-160", "ResNet-RS-50", 160, 36, 79.10, 70.72, 79.97, 0.87),
    Mix("resnetrs101-160", "ResNet-RS-101", 160, 64, 80.11, 72.73, 80.89, 0.78),
    Mix("resnetrs101-192", "ResNet-RS-101", 192, 64, 81.29, 73.63, 81.80, 0.51),  # printed as 190
    Mix("resnetrs152-224", "ResNet-RS-152", 224, 87, 82.81, 74.46, 83.10, 0.29),
    Mix("vit_s16", "ViT-S/16", 224, 22, 79.89, 71.88, 81.00, 1.11),
    Mix("deit_s16", "DeiT-S", 224, 22, 78.97, 72.26, 80.49, 1.52),
    Mix("deit_b16", "DeiT-B", 224, 87, 81.79, 74.55, 82.84, 1.04),
    Mix("deit_b16-384", "DeiT-B", 384, 87, 83.16, 75.45, 83.75, 0.59),
    Mix("deit_l16", "DeiT-L", 224, 307, 82.22, 74.60, 83.05, 0.83),
)
FIGURE_1 = ("deit_s16", "resnet50", "resnet101", "resnet152", "deit_b16", "deit_l16")
"""The rows of Table 3 that the lower panel of Fig. 1 draws."""

TABLE_4 = (
    Size(0, Value(76.39, 0.21), Value(76.39, 0.21)),
    Size(1, Value(77.61, 0.08), Value(78.12, 0.05)),
    Size(2, Value(77.16, 0.04), Value(77.48, 0.04)),
    Size(3, Value(76.52, 0.04), Value(76.75, 0.07)),
    Size(4, Value(76.09, 0.08), Value(76.34, 0.13)),
    Size(5, Value(75.81, 0.08), Value(75.87, 0.09)),
    Size(6, Value(75.44, 0.06), Value(75.49, 0.07)),
    Size(7, Value(75.28, 0.10), Value(74.72, 0.20)),
    Size(8, Value(75.11, 0.12), Value(74.14, 0.13)),
    Size(9, Value(75.04, 0.05), Value(73.70, 0.09)),
)

# ------------------------------------------------------------------------- read off the figures

GUIDANCE = (1.0, 1.25, 1.5, 1.75, 2.0, 5.0)
DIGITISED_FIGURE_3_FID_50K = {
    0.0: (7.80, 4.73, 5.95, 8.41, 10.94, 18.46),
    0.2: (8.28, 5.01, 6.15, 8.68, 11.1, 18.3),
    0.3: (8.58, 5.25, 6.3, 8.8, 11.1, 18.3),
    0.4: (8.96, 5.49, 6.5, 9.0, 11.16, 18.3),
    1.0: (11.87, 7.34, 7.75, 9.95, 12.18, 18.2),
}
"""Left panel: log-variance coefficient -> FID of 50 k samples against validation, by GUIDANCE."""
DIGITISED_FIGURE_3_INCEPTION_SCORE = (50.2, 83.8, 117.8, 146.6, 169.8, 236.5)
DIGITISED_FIGURE_3_FID_1200K = (1.43, 1.20, 4.1, 7.6, 10.8, 21.7)
DIGITISED_FIGURE_3_TOP1 = (32.5, 33.4, 31.5, 30.0, 27.4, 12.5)
DIGITISED_FIGURE_3_TOP5 = (55.8, 56.8, 54.4, 52.7, 49.1, 27.2)

AUG_LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
DIGITISED_FIGURE_4 = {
    0.1: ((1.76, 2.06, 2.18, 2.37, 2.62, 2.89), (64.96, 63.9, 63.6, 63.15, 62.9, 62.7)),
    0.3: ((1.76, 2.05, 2.24, 2.46, 2.72, 2.97), (63.96, 61.6, 60.6, 59.5, 59.1, 58.6)),
}
"""Log-variance coefficient -> (FID train, CAS top-1 percent), by AUG_LEVELS; 256 px, guidance 1."""

DIGITISED_FIGURE_6 = (68.63, 70.65, 71.52, 71.98, 72.30, 72.44, 72.64, 72.75, 72.85, 72.98)
"""ResNet-50 top-1 percent at 64 px with 0 to 9 copies of generated images beside the real ones."""
FIGURE_6_DELTAS = {3: 3.35, 6: 4.01, 9: 4.35}
"""Copies -> gain in points, as printed in the figure."""
