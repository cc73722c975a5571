"""Public weights: safetensors folders of DeepFloyd IF, ADM and T5, read and written in both directions.

unet = synthaug.weights.open_unet("IF-I-M-v1.0")            # (z_t, t, text) -> raw output
encoder = synthaug.weights.open_t5("IF-I-M-v1.0")           # (ids, mask) -> text
synthaug.weights.write_t5("tuned", encoder)                 # and `synthaug export-weights` for U-Nets
"""

from synthaug.weights.opened import OpenUNet, open_unet
from synthaug.weights.t5 import OpenT5, open_t5, write_t5

__all__ = ["OpenT5", "OpenUNet", "open_t5", "open_unet", "write_t5"]
