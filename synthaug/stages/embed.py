"""embed: every prompt through the frozen text encoder, once. Nobody else loads the encoder."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from synthaug import commit, parallel
from synthaug.checks.text import t5_problems
from synthaug.errors import ConfigError, DataError
from synthaug.experiment import TextEncoder, UNet
from synthaug.models.text import embed_prompts
from synthaug.models.tokenizer import Tokenizer, find_tokenizer, prepare_prompt
from synthaug.prompts import Bank, build_prompts, shared_prompts
from synthaug.rundir import RunDir
from synthaug.stages import sets
from synthaug.stages.arrays import read_arrays, write_arrays
from synthaug.stages.job import Job
from synthaug.weights.t5 import open_t5, weight_files

Progress = Callable[[int, int], None]

T5_BATCH = 16
"""Prompts that go through T5 at once."""

BANK_ARRAYS = ("first", "count", "text", "mask", "null_text", "null_mask")


@dataclasses.dataclass(frozen=True)
class PromptBank:
    """Text embeddings of all prompts, found by class."""

    prompts: tuple[str, ...]
    first: np.ndarray  # i32[K], row of a class's first prompt
    count: np.ndarray  # i32[K], prompts of a class
    text: np.ndarray  # f32[P,L,D]
    mask: np.ndarray  # bool[P,L]
    null_text: np.ndarray  # f32[L,D], the encoded empty prompt
    null_mask: np.ndarray  # bool[L]

    @property
    def width(self) -> int:
        """Width of an embedding."""
        return int(self.text.shape[-1])

    def rows(self, class_index: np.ndarray, prompt_index: np.ndarray) -> np.ndarray:
        """Returns i32[B], the rows of the given prompts of the given classes."""
        return self.first[class_index] + prompt_index % self.count[class_index]

    def null(self, unet: UNet) -> tuple[np.ndarray, np.ndarray]:
        """Returns what "no text" is for a network: (text f32[L,D], mask bool[L]).

        Imagen drops the text to zeros and attends to none of it; DeepFloyd IF encodes the empty prompt.
        """
        if unet.null_text == "zeros":
            return np.zeros_like(self.null_text), np.zeros_like(self.null_mask)
        return self.null_text, self.null_mask


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Prompts as the frozen encoder sees them."""

    text: np.ndarray  # f32[P,L,D]
    mask: np.ndarray  # bool[P,L], False where a prompt is padded
    warnings: tuple[str, ...]
    encoder: dict[str, str]  # SHA-256 of each file of the encoder, by name


def run(job: Job) -> dict[str, Any]:
    """Writes the prompt bank; every later stage takes the prompts from its result."""
    table = sets.class_table(job.run)
    settings = job.experiment.prompts
    bank = build_prompts(settings, table)
    prompts = bank.prompts
    per_class = [prompts[entry.key] for entry in table.entries]
    flat = [prompt for names in per_class for prompt in names]
    count = np.array([len(names) for names in per_class], np.int32)
    read = dict(zip(flat, read_as(job.experiment.text_encoder, flat), strict=True))
    warnings = check_prompts(bank, read, settings.allow_duplicates)

    def progress(done: int, total: int) -> None:
        job.progress(done, total, "prompts")
        job.check_stop()

    with job.clock.measure("step"):
        # The last row is the empty prompt's.
        encoded = encode(job.experiment.text_encoder, [*flat, ""], progress)
    warnings += encoded.warnings
    for warning in warnings:
        job.say(warning)
    arrays = {
        "prompts": np.array(flat),
        "first": (np.cumsum(count) - count).astype(np.int32),
        "count": count,
        # f32 although 1000 prompts of T5-XXL take 1.3 GB: the same prompt means the same bits in every study.
        "text": np.asarray(encoded.text[:-1], np.float32),
        "mask": np.asarray(encoded.mask[:-1], bool),
        "null_text": np.asarray(encoded.text[-1], np.float32),
        "null_mask": np.asarray(encoded.mask[-1], bool),
    }
    names_file = settings.names_file
    return {
        "prompts": prompts,
        "names_file": {names_file: commit.sha256_file(pathlib.Path(names_file))} if names_file else {},
        "changed": {prompt: text for prompt, text in read.items() if prompt != text},
        "warnings": warnings,
        "encoder": encoded.encoder,
        "sha256": write_arrays(bank_file(job.run), arrays),
        "shape": list(arrays["text"].shape),
    }


def check_prompts(bank: Bank, read: Mapping[str, str], allow_duplicates: bool) -> list[str]:
    """Returns the warnings of a prompt bank, before anything is encoded.

    Args:
        bank: the prompts.
        read: {prompt: what the encoder reads}.
        allow_duplicates: classes may share a prompt.

    Raises:
        ConfigError: a class has no usable prompt, or shares one and may not.
    """
    problems, warnings = list(bank.problems), list(bank.warnings)
    problems += [
        f"prompts: class {key}: nothing is left of {text[:60]!r} after the encoder's clean-up; set "
        f"prompts.names.{key}=..., or text_encoder.clean=false."
        for key, texts in bank.prompts.items()
        for text in texts
        if text.strip() and not read[text].strip()
    ]
    shared = shared_prompts(bank.prompts, bank.others, read)
    if allow_duplicates:
        warnings += shared
    else:
        problems += shared
    if problems:
        more = f" And {len(problems) - 1} more: {' '.join(problems[1:4])}" if len(problems) > 1 else ""
        raise ConfigError(f"{problems[0]}{more}")
    return warnings


def read_as(settings: TextEncoder, prompts: list[str]) -> list[str]:
    """Returns the text that the encoder of the settings encodes for each prompt."""
    if settings.kind == "t5":
        return [prepare_prompt(prompt, settings.clean) for prompt in prompts]
    return list(prompts)


def encode(settings: TextEncoder, prompts: list[str], progress: Progress) -> Encoded:
    """Returns the embeddings of prompts by the encoder of the settings; another kind is another line here.

    Args:
        settings: the encoder.
        prompts: P texts.
        progress: is told, now and then, how many of the P are done; may raise to stop.

    Raises:
        ConfigError: the settings do not describe the encoder's folder.
        DataError: a prompt is too long for the byte encoder, or a file of T5 is missing or damaged.
    """
    if settings.kind == "t5":
        return _encode_t5(settings, prompts, progress)
    text, mask = embed_prompts(settings, prompts)
    return Encoded(text, mask, (), {})


def _encode_t5(settings: TextEncoder, prompts: list[str], progress: Progress) -> Encoded:
    folder = pathlib.Path(settings.path)
    if problems := t5_problems(settings.path, settings):
        raise ConfigError(problems[0])
    files = weight_files(folder)
    tokenizer = Tokenizer(find_tokenizer(files[0].parent))
    read = read_as(settings, prompts)
    ids, mask, lengths = tokenizer.encode(read, settings.max_length)
    warnings = tuple(
        f"prompts: {prompt[:60]!r} has {length} tokens, of which {settings.max_length} are encoded; "
        "shorten the name in prompts.names, or raise text_encoder.max_length."
        for prompt, length in zip(prompts, lengths, strict=True)
        if length > settings.max_length
    )
    described = (files[0].parent / "config.json", *files, tokenizer.file)
    hashes = {file.name: commit.sha256_file(file) for file in described}
    progress(0, len(prompts))
    # The weights of the largest encoder are 19 GB in f32: they are spread over the devices.
    encoder = open_t5(folder, sharding=parallel.shardings)
    if tokenizer.vocab_size > encoder.config.vocab_size:
        raise DataError(
            f"{tokenizer.file}: has {tokenizer.vocab_size} tokens; expected at most the "
            f"{encoder.config.vocab_size} of {folder}: take both from one model."
        )
    text = np.zeros((*ids.shape, encoder.config.d_model), np.float32)
    for start in range(0, len(ids), T5_BATCH):
        # Batches of one size, so that an embedding does not depend on how many prompts a study has.
        rows = np.arange(start, start + T5_BATCH).clip(max=len(ids) - 1)
        made = encoder(ids[rows], mask[rows].astype(np.int32))
        end = min(start + T5_BATCH, len(ids))
        text[start:end] = np.asarray(made)[: end - start]
        progress(end, len(prompts))
    if not np.isfinite(text).all():
        raise DataError(
            f"{folder}: T5 gives numbers that are not finite; the files are damaged, or were written as fp16 "
            "from weights that need bf16 or fp32: fetch those."
        )
    return Encoded(text, mask, warnings, hashes)


def bank_file(run: RunDir) -> pathlib.Path:
    """Returns where the prompt bank is."""
    return run.part_dir("embed", 0) / "bank.npz"


def read_bank(run: RunDir) -> PromptBank:
    """Returns the prompt bank, checked against its hash."""
    arrays = read_arrays(bank_file(run), run.result("embed")["sha256"])
    prompts = tuple(str(p) for p in arrays["prompts"])
    return PromptBank(prompts, **{name: arrays[name] for name in BANK_ARRAYS})
