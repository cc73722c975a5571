"""Licences that public weights come under, and what they say about images made with them.

A licence travels by its key: from the imported checkpoint into every checkpoint trained from it, into the
manifest and the shards of the images that those make, into the report, and into exported model cards.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable

from synthaug.config import did_you_mean
from synthaug.errors import CheckpointError, ConfigError


@dataclasses.dataclass(frozen=True)
class Licence:
    """A licence of weights."""

    key: str  # what checkpoints, markers and the job's `licences` name it by
    name: str
    terms: str  # on generated data, in one sentence
    url: str


NONE = Licence("none", "none", "Trained from random weights: no licence of other weights applies.", "")

LICENCES = {
    licence.key: licence
    for licence in (
        NONE,
        Licence(
            "deepfloyd-if",
            "DeepFloyd IF Licence Agreement",
            "Non-commercial research use only, for the weights, for weights trained from them and for all "
            "data produced with them (clause 2a); not sublicensable, revocable.",
            "https://huggingface.co/DeepFloyd/IF-I-XL-v1.0",
        ),
        Licence(
            "adm",
            "MIT License (OpenAI guided-diffusion)",
            "No terms on generated images; copies of the weights keep the copyright notice.",
            "https://github.com/openai/guided-diffusion/blob/main/LICENSE",
        ),
        Licence(
            "t5",
            "Apache License 2.0",
            "No terms on generated data; copies of the weights keep the licence text.",
            "https://huggingface.co/google/t5-v1_1-xxl",
        ),
    )
}


def licence_of(key: str, where: str) -> Licence:
    """Returns the licence of a key; `where` names the place in the error.

    Raises:
        ConfigError: the key is unknown.
    """
    if key not in LICENCES:
        raise ConfigError(f"{where}: licence {key!r} is unknown{did_you_mean(key, LICENCES)}")
    return LICENCES[key]


def of_checkpoint(step_dir: pathlib.Path) -> str:
    """Returns the key of the licence of a checkpoint, "none" if it was trained from random weights.

    Only the record is read, neither its checksum nor the weights.

    Raises:
        CheckpointError: there is no such checkpoint, or its record cannot be read.
    """
    path = pathlib.Path(step_dir) / "digest.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        about = record.get("about") or {}
        key = about.get("licence", NONE.key)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint; name the folder of one step.") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); restore the file.") from None
    except (ValueError, AttributeError):
        raise CheckpointError(f"{path}: was altered; import or train the checkpoint again.") from None
    return licence_of(str(key), str(path)).key


def binding(keys: Iterable[str]) -> list[str]:
    """Returns the keys of the licences that something from several checkpoints comes under, sorted.

    Example:
        >>> binding(["none", "deepfloyd-if", "none"])
        ['deepfloyd-if']
    """
    return sorted(set(keys) - {NONE.key})


def sentence(key: str) -> str:
    """Returns name, terms and address of a licence as one text, for reports and cards."""
    licence = LICENCES[key]
    return f"{licence.name}: {licence.terms}" + (f" {licence.url}" if licence.url else "")
