"""embed: every prompt through the frozen text encoder, once. Nobody else loads the encoder."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from synthaug.errors import ConfigError
from synthaug.experiment import TextEncoder
from synthaug.models.text import embed_prompts
from synthaug.prompts import build_prompts, lint_prompts
from synthaug.rundir import RunDir
from synthaug.stages import sets
from synthaug.stages.arrays import read_arrays, write_arrays
from synthaug.stages.job import Job


@dataclasses.dataclass(frozen=True)
class PromptBank:
    """Text embeddings of all prompts, found by class."""

    prompts: tuple[str, ...]
    first: np.ndarray  # i32[K], row of a class's first prompt
    count: np.ndarray  # i32[K], prompts of a class
    text: np.ndarray  # f32[P,L,D]
    mask: np.ndarray  # bool[P,L]

    @property
    def width(self) -> int:
        """Width of an embedding."""
        return int(self.text.shape[-1])

    def rows(self, class_index: np.ndarray, prompt_index: np.ndarray) -> np.ndarray:
        """Returns i32[B], the rows of the given prompts of the given classes."""
        return self.first[class_index] + prompt_index % self.count[class_index]


def run(job: Job) -> dict[str, Any]:
    """Writes the prompt bank."""
    table = sets.class_table(job.run)
    prompts = build_prompts(job.experiment.prompts, table)
    warnings = lint_prompts(prompts)
    for warning in warnings:
        job.say(warning)
    per_class = [prompts[entry.key] for entry in table.entries]
    flat = [prompt for names in per_class for prompt in names]
    count = np.array([len(names) for names in per_class], np.int32)
    with job.clock.measure("step"):
        text, mask = encode(job.experiment.text_encoder, flat)
    arrays = {
        "prompts": np.array(flat),
        "first": (np.cumsum(count) - count).astype(np.int32),
        "count": count,
        "text": np.asarray(text, np.float32),
        "mask": np.asarray(mask, bool),
    }
    sha256 = write_arrays(bank_file(job.run), arrays)
    return {"prompts": prompts, "warnings": warnings, "sha256": sha256, "shape": list(text.shape)}


def encode(settings: TextEncoder, prompts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (text f32[P,L,D], mask bool[P,L]); another kind of encoder is another line here."""
    if settings.kind == "byte":
        return embed_prompts(settings, prompts)
    raise ConfigError(f"text_encoder.kind = {settings.kind!r}; expected byte.")


def bank_file(run: RunDir) -> pathlib.Path:
    """Returns where the prompt bank is."""
    return run.part_dir("embed", 0) / "bank.npz"


def read_bank(run: RunDir) -> PromptBank:
    """Returns the prompt bank, checked against its hash."""
    arrays = read_arrays(bank_file(run), run.result("embed")["sha256"])
    prompts = tuple(str(p) for p in arrays["prompts"])
    return PromptBank(prompts, arrays["first"], arrays["count"], arrays["text"], arrays["mask"])
