"""Public weights: safetensors of DeepFloyd IF, ADM, T5 and timm's classifiers, in both directions.

unet = synthaug.weights.open_unet("IF-I-M-v1.0")            # (z_t, t, text) -> raw output
classifier = synthaug.weights.open_classifier("model.safetensors", "resnet50")  # images -> logits
encoder = synthaug.weights.open_t5("IF-I-M-v1.0")           # (ids, mask) -> text
synthaug.weights.write_t5("tuned", encoder)                 # and `synthaug export-weights` for U-Nets
"""

from synthaug.weights.classifiers import (
    OpenClassifier,
    adapt_classifier,
    open_classifier,
    read_classifier,
    write_classifier,
)
from synthaug.weights.opened import OpenUNet, open_unet
from synthaug.weights.t5 import OpenT5, open_t5, write_t5

__all__ = [
    "OpenClassifier",
    "OpenT5",
    "OpenUNet",
    "adapt_classifier",
    "open_classifier",
    "open_t5",
    "open_unet",
    "read_classifier",
    "write_classifier",
    "write_t5",
]
