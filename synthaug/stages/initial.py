"""What a finetune starts from: another checkpoint's weights, and the record that travels with them."""

from __future__ import annotations

import pathlib
from typing import Any

import jax

from synthaug import commit, config, experiment, licences
from synthaug.errors import CheckpointError
from synthaug.models.functional import Model, Weights, abstract
from synthaug.train import digest
from synthaug.train.checkpoint import load_weights

SCRATCH = "scratch"


def fingerprint(init: str) -> str:
    """Returns the hash of the record of the checkpoint that training starts from."""
    return init if init == SCRATCH else commit.sha256_file(pathlib.Path(init) / digest.FILE)


def about(study: experiment.Experiment, name: str) -> dict[str, Any]:
    """Returns what the weights of a model are, for its checkpoints: JSON values.

    Family, licence and source are those of the checkpoint that it starts from: training on changes neither
    what may be done with the images nor the file format that the weights fit. The rest is this study's.
    """
    init, text = study.cascade[name].finetune.init, study.text_encoder
    before: dict[str, Any] = {}
    if init != SCRATCH:
        try:
            before = digest.read(pathlib.Path(init)).get("about") or {}
        except digest.Unusable as problem:
            raise CheckpointError(f"cascade.{name}.finetune.init: {problem}; use another step.") from None
    network = experiment.network_of(study, name)
    by_text = network.unet.conditioning == "text"
    tree = config.to_tree(network)
    # the order in which files hold the attention's parts is the family's, not a setting of a study
    tree["qkv_order"] = (before.get("network") or {}).get("qkv_order", network.qkv_order)
    return {
        "family": before.get("family", "synthaug"),
        "licence": before.get("licence", licences.NONE.key),
        "source": before.get("source", SCRATCH),
        "init": fingerprint(init),
        "network": tree,
        "diffusion": config.to_tree(study.cascade[name].diffusion),
        "text": {"kind": text.kind, "width": text.width, "max_length": text.max_length} if by_text else {},
    }


def weights_of(folder: str, unet: Model, name: str) -> Weights:
    """Returns the weights of a checkpoint as numpy arrays, checked leaf by leaf against the network.

    Args:
        folder: of a checkpoint's step.
        unet: the network of the model that they are for.
        name: of that model, for the error.

    Raises:
        CheckpointError: the first leaf that does not fit.
    """
    weights, _ = load_weights(pathlib.Path(folder))
    where = f"cascade.{name}.finetune.init = {folder}"
    expected = dict(jax.tree_util.tree_leaves_with_path(abstract(unet)["params"]))
    found = dict(jax.tree_util.tree_leaves_with_path(weights["params"]))
    for path in [*expected, *found]:
        leaf = jax.tree_util.keystr(path, simple=True, separator="/")
        if path not in found:
            raise CheckpointError(f"{where}: {leaf} is missing there; is it another model?")
        if path not in expected:
            raise CheckpointError(f"{where}: {leaf} is not in this model; is it another model?")
        if expected[path].shape != found[path].shape:
            raise CheckpointError(
                f"{where}: {leaf} is {found[path].shape} there, {expected[path].shape} expected; "
                "use a checkpoint of the same unet settings."
            )
    return weights
