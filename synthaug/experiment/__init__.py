"""Every knob that decides a result. Two equal experiments give the same numbers wherever they run."""

from synthaug.experiment.classifier import ARCHITECTURES, Architecture, Augment, Classifier, View
from synthaug.experiment.data import MAX_SEED, Data, MadeSet, Prompts, Subset, TextEncoder, ValSet
from synthaug.experiment.filtering import Filter
from synthaug.experiment.generator import Diffusion, Model, Network, Sampler, UNet
from synthaug.experiment.paths import with_absolute_paths
from synthaug.experiment.scoring import ENCODERS, SMALLEST_INCEPTION, Encoder, Score, fewest_images
from synthaug.experiment.study import (
    MIXES,
    OPTIONAL_STAGES,
    Classify,
    Experiment,
    Grid,
    Phase,
    Sample,
    Sweep,
    cascade_order,
    load,
    network_of,
    parse,
    prepared_resolutions,
    prepared_sets,
    saved_steps,
)
from synthaug.experiment.training import Finetune, Optimizer, Saving

__all__ = [
    "ARCHITECTURES",
    "ENCODERS",
    "MAX_SEED",
    "MIXES",
    "OPTIONAL_STAGES",
    "SMALLEST_INCEPTION",
    "Architecture",
    "Augment",
    "Classifier",
    "Classify",
    "Data",
    "Diffusion",
    "Encoder",
    "Experiment",
    "Filter",
    "Finetune",
    "Grid",
    "MadeSet",
    "Model",
    "Network",
    "Optimizer",
    "Phase",
    "Prompts",
    "Sample",
    "Sampler",
    "Saving",
    "Score",
    "Subset",
    "Sweep",
    "TextEncoder",
    "UNet",
    "ValSet",
    "View",
    "cascade_order",
    "fewest_images",
    "load",
    "network_of",
    "parse",
    "prepared_resolutions",
    "prepared_sets",
    "saved_steps",
    "with_absolute_paths",
]
