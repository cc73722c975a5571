"""import and export-weights: public weights become a checkpoint of ours, and checkpoints public weights."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np
import yaml

from synthaug import __version__, commit, config, licences
from synthaug.errors import CheckpointError, ConfigError, RunError
from synthaug.experiment import Diffusion, Network, Saving
from synthaug.models.functional import count_parameters, hash_weights
from synthaug.stages import card
from synthaug.train import leaves, posthoc
from synthaug.train.checkpoint import Checkpoints, load_weights
from synthaug.weights import families
from synthaug.weights.folders import removed, written_aside
from synthaug.weights.rules import flatten


def import_weights(family: str, folder: pathlib.Path, checkpoint: pathlib.Path) -> str:
    """Writes a checkpoint from a folder of public weights, whole or not at all.

    Args:
        family: one of `families.PUBLIC`, or synthaug for a folder that `export_weights` wrote.
        folder: the family's files.
        checkpoint: the folder to write: what `finetune.init` of a job names.

    Returns:
        What was imported, as text for a person: licence, and the settings that a job needs.

    Raises:
        SynthaugError: unknown family, damaged files, or a target that is taken.
    """
    if family not in families.FAMILIES:
        hint = config.did_you_mean(family, families.FAMILIES)
        raise ConfigError(f"import: family {family!r} is unknown{hint}")
    with written_aside(checkpoint) as aside:
        opened = families.read_unet(folder, family=family)
        about = _about_imported(opened)
        state = {"step": np.zeros((), np.int32), "params": opened.params, "ema": {}, "opt": {}, "stats": {}}
        identity = {"role": "imported", "source": about["source"]["weights_sha256"]}
        steps = aside.with_name(f"{aside.name}.steps")
        with removed(steps):
            saving = Saving(every=1, keep_latest=1, keep_best=0)
            with contextlib.closing(Checkpoints(steps, saving, identity, warn=_fail, about=about)) as writer:
                writer.save(0, state, {})
            aside.rmdir()
            os.rename(steps / "0", aside)
    return _imported_text(opened, about, checkpoint)


def export_weights(
    checkpoint: pathlib.Path, folder: pathlib.Path, *, average: bool = True, ema_length: float | None = None
) -> str:
    """Writes a checkpoint as the folder of its public family, or in synthaug's own names if it has none.

    Beside config.json and the tensors there are README.md, the model card with licence and origin, and
    synthaug.json, the checkpoint's own record.

    Args:
        checkpoint: folder of one step.
        folder: the folder to write.
        average: False for the weights that training goes on with instead of the averaged ones.
        ema_length: the post-hoc EMA of this length instead, from the snapshots in ema/ of the training run.

    Returns:
        What was written, as text for a person.

    Raises:
        SynthaugError: no whole checkpoint, one without a record of its network, a length that its snapshots
            cannot give, or a target that is taken.
    """
    params, averaged, record = _wanted_weights(checkpoint, average, ema_length)
    about, network, diffusion = _read_about(checkpoint, record)
    licence = licences.licence_of(about["licence"], str(checkpoint))
    family = families.FAMILIES.get(about["family"])
    if family is None or family.key not in families.PUBLIC:
        family = families.fitting_family(network, diffusion)
    facts = {
        "family": family.key,
        "step": record["step"],
        "metrics": record["metrics"],
        "averaged": averaged,
        "parameters": count_parameters(params),
        "weights_sha256": hash_weights(params),
        "synthaug": __version__,
    }
    with written_aside(folder) as aside:
        families.write_unet(aside, family, network, diffusion, params)
        kept = json.dumps({"about": about, "export": facts}, indent=1) + "\n"
        commit.write_new(aside / families.ABOUT, kept.encode())
        commit.write_new(aside / "README.md", card.render(family, licence, about, facts).encode())
    kind = "averaged weights" if averaged else "weights"
    kind += f" ({averaged})" if isinstance(averaged, str) else ""
    return (
        f"{folder}: {facts['parameters']:,} {kind} of step {record['step']} as {family.title}\n"
        f"licence: {licences.sentence(licence.key)}\n"
    )


def _wanted_weights(
    checkpoint: pathlib.Path, average: bool, ema_length: float | None
) -> tuple[dict[str, Any], bool | str, dict[str, Any]]:
    """Returns parameters, whether they are averaged (the length, if post hoc), and the record."""
    if ema_length is None:
        weights, record = load_weights(checkpoint, average=average)
        averaged = average and any(path[0] == "ema" for path, _ in record["leaves"])
        return weights["params"], averaged, record
    if not average:
        raise ConfigError("export-weights: --params and --ema-length exclude each other; leave one out.")
    record = load_weights(checkpoint, average=False)[1]
    snapshots = checkpoint.resolve().parent.parent / "ema"
    params = posthoc.reconstruct(snapshots, record["step"], ema_length)
    wanted = {leaves.name(path[1:]): text for path, text in record["leaves"] if path[0] == "params"}
    for misfit in leaves.misfits({k: leaves.describe(v) for k, v in flatten(params).items()}, wanted):
        raise CheckpointError(
            f"{snapshots}: does not fit {checkpoint}: {misfit}; restore the folder of the training run."
        )
    return params, f"ema_length {ema_length:g}", record


def _fail(problem: str) -> None:
    raise RunError(problem)  # a fresh folder holds no checkpoint to move aside


def _about_imported(opened: families.Opened) -> dict[str, Any]:
    files = [opened.folder / families.CONFIG, *opened.files]
    return {
        "family": opened.family.key,
        "licence": opened.licence,
        "network": config.to_tree(opened.network),
        "diffusion": config.to_tree(opened.diffusion),
        "text": {"width": opened.network.text_width, "max_length": opened.network.text_length},
        "source": {
            "folder": str(opened.folder.absolute()),
            "files": {file.name: commit.sha256_file(file) for file in files},
            "weights_sha256": hash_weights(opened.params),
        },
    }


def _read_about(
    checkpoint: pathlib.Path, record: dict[str, Any]
) -> tuple[dict[str, Any], Network, Diffusion]:
    about, where = record.get("about"), f"{checkpoint}/digest.json"
    if not isinstance(about, dict) or not {"family", "licence", "network", "diffusion"} <= about.keys():
        raise CheckpointError(
            f"{where}: does not say what network its weights are of; it is no U-Net of a cascade, or was "
            "written by an older synthaug: train it again."
        )
    network = config.build(Network, about["network"], where, "network")
    return about, network, config.build(Diffusion, about["diffusion"], where, "diffusion")


def _imported_text(opened: families.Opened, about: dict[str, Any], checkpoint: pathlib.Path) -> str:
    network = opened.network
    model: dict[str, Any] = {"resolution": network.resolution}
    if network.low_res:
        model |= {"low_res": "BASE", "enlarge": network.enlarge, "augmentation": network.augmentation}
    model |= {"unet": _stated(network.unet), "diffusion": _stated(opened.diffusion)}
    model["finetune"] = {"init": str(checkpoint)}
    if network.num_classes:
        model["finetune"]["text_drop"] = 0  # a label cannot be left out
    job: dict[str, Any] = {"cascade": {"NAME": model}}
    if network.text_width:
        kind = {"kind": "t5", "path": "T5_FOLDER"} if opened.family.key == "deepfloyd-if" else {}
        job["text_encoder"] = {**kind, "max_length": network.text_length, "width": network.text_width}
    job["data"] = {"channels": network.channels}
    if network.num_classes:
        job["data"]["num_classes"] = network.num_classes
    return (
        f"{checkpoint}: {count_parameters(opened.params):,} parameters of {opened.family.title}\n"
        f"licence: {licences.sentence(about['licence'])}\n"
        "A job that starts from it states:\n\n"
        + yaml.safe_dump(job, sort_keys=False, default_flow_style=None)
    )


def _stated(settings: Any) -> dict[str, Any]:
    """Returns the settings that differ from their defaults, one value for a list of one."""
    tree = config.to_tree(settings)
    defaults = {field.name: config.to_tree(field.default) for field in dataclasses.fields(settings)}
    return {key: value for key, value in tree.items() if value != defaults[key]}
