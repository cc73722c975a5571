"""Training a model of the cascade: starting from another run's weights, and one part at a time."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthaug import config, experiment, rng
from synthaug.attempts import read_metrics
from synthaug.data import sources
from synthaug.diffusion.cascade import cut, shrink
from synthaug.diffusion.loss import diffusion_loss
from synthaug.errors import CheckpointError, ConfigError
from synthaug.models.functional import Model, abstract
from synthaug.models.text import embed_prompts
from synthaug.stages import finetune, initial
from synthaug.train import digest, posthoc
from synthaug.train.checkpoint import load_weights
from synthaug.train.state import averaged
from tests import study


def tune(runs: pathlib.Path, init: pathlib.Path, *more: str) -> tuple[int, str]:
    """Runs prepare, embed and the base model's finetune with a given start."""
    words = ["run", str(study.TINY), "name=tuned", f"cascade.base4.finetune.init={init}", *more]
    words += ["--runs", str(runs), "--quiet"]
    for stage in (["--until", "embed"], ["--stage", "finetune", "--part", "0"]):
        done = study.synthaug(*words, *stage)
        if done.returncode:
            return done.returncode, done.stderr.splitlines()[-1]
    return 0, ""


def test_finetune_starts_from_the_weights_it_is_given(
    tmp_path: pathlib.Path, reference_run: pathlib.Path
) -> None:
    init = reference_run / "finetune-0" / "checkpoints" / "40"
    more = ("ema_profiles=[0.05,0.1]", "ema_every=15", "remat=true")
    code, text = tune(tmp_path, init, *(f"cascade.base4.finetune.{setting}" for setting in more))
    assert code == 0, text
    scratch = read_metrics(reference_run / "finetune-0" / "metrics.jsonl")
    tuned = read_metrics(tmp_path / "tuned" / "finetune-0" / "metrics.jsonl")
    # The same batch and the same noise, so the only difference is where the weights start.
    assert tuned[1]["loss"] != scratch[1]["loss"]
    assert tuned[10]["val_loss"] < scratch[10]["val_loss"]
    assert tuned[40]["val_loss"] < scratch[40]["val_loss"]
    # Post-hoc EMA: every 15th step, those that stay, and a length in between from what is stored.
    part = tmp_path / "tuned" / "finetune-0"
    assert posthoc.steps(part / "ema") == [15, 20, 30, 40]
    weights, record = load_weights(part / "checkpoints" / "40")
    between = posthoc.reconstruct(part / "ema", 40, 0.07)
    assert jax.tree.map(np.shape, between) == jax.tree.map(np.shape, weights["params"])
    assert record["about"]["init"] == initial.fingerprint(str(init))
    assert record["about"]["network"] == config.to_tree(experiment.network_of(study_of(), "base4"))


def study_of(*overrides: str) -> experiment.Experiment:
    return experiment.load(study.TINY, overrides)


def test_untuned_weights_are_sampled_as_they_are(tmp_path: pathlib.Path, reference_run: pathlib.Path) -> None:
    """num_steps = 0: the vanilla arm. The weights become step 0 and everything after it works."""
    words = ["run", str(study.TINY), "name=vanilla", "--runs", str(tmp_path), "--quiet", "sample.copies=1"]
    words += [
        "stages=[]",
        "sweep.phases={}",
        "classify.copies=[1]",
    ]
    inits = [reference_run / f"finetune-{part}" / "checkpoints" / "40" for part in (0, 1)]
    for name, init in zip(("base4", "sr8"), inits, strict=True):
        words += [f"cascade.{name}.finetune.init={init}", f"cascade.{name}.finetune.num_steps=0"]
        words += [f"cascade.{name}.finetune.saving.keep_steps=[]"]
    for stage in ("scan", "prepare", "collect", "embed", "finetune", "sample"):
        done = study.synthaug(*words, "--stage", stage)
        assert done.returncode == 0, done.stderr
    run = tmp_path / "vanilla"
    for part, init in enumerate(inits):
        found, record = load_weights(run / f"finetune-{part}" / "checkpoints" / "0")
        truth, _ = load_weights(init)
        assert jax.tree.all(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), found, truth))
        # neither an optimiser's state nor a second copy of the weights
        assert {path[0] for path, _ in record["leaves"]} == {"step", "params"}
    result = json.loads((run / "finetune-0" / "done.json").read_text())["result"]
    assert (result["steps"], result["val_loss"], result["licence"]) == (0, None, "none")
    assert len(list(run.glob("sets/generated/8/shard-*.json"))) == 3
    assert "finetune" in study.synthaug("status", "vanilla", "--runs", str(tmp_path)).stdout


# ------------------------------------------------------------------------------------------ the record


def test_licence_family_and_source_are_inherited(tmp_path: pathlib.Path) -> None:
    source = {"folder": "/weights/if", "weights_sha256": "0" * 64}
    told = {"family": "deepfloyd-if", "licence": "deepfloyd-if", "source": source}
    digest.write(tmp_path, {"step": 0, "about": {**told, "network": {"qkv_order": "by_part"}}})
    about = initial.about(study_of(f"cascade.sr8.finetune.init={tmp_path}"), "sr8")
    assert {key: about[key] for key in told} == told
    assert about["network"]["qkv_order"] == "by_part"
    assert about["network"]["low_res"] and about["diffusion"]["learned_variance"]
    assert about["text"] == {"kind": "byte", "width": 32, "max_length": 8}
    scratch = initial.about(study_of(), "sr8")
    assert (scratch["family"], scratch["licence"], scratch["source"]) == ("synthaug", "none", "scratch")


# -------------------------------------------------------------------------------------------- the loss


def seen_by(
    settings: experiment.Model, batch: dict[str, Any], train: bool
) -> tuple[jax.Array, dict[str, Any]]:
    """Returns (z_t, cond) as the network of a model gets them in the loss."""
    seen: list[Any] = []

    def apply(weights, z_t, time, cond, *, train, key):
        seen.append((z_t, cond))
        return jnp.zeros((*z_t.shape[:3], z_t.shape[3] * (1 + settings.diffusion.learned_variance)))

    unet = Model(init=lambda key: {}, apply=apply, apply_train=apply, prepare=lambda weights: weights)
    finetune._loss(unet, settings, {"params": {}}, batch, rng.root(5), train)
    return seen[0]


def batch_of(count: int = 64, side: int = 8) -> dict[str, Any]:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (count, side, side, 1), np.uint8)
    bank = {
        "text": jnp.ones((2, 8, 32)),
        "mask": jnp.ones((2, 8), bool),
        "null_text": jnp.full((8, 32), 0.5),
        "null_mask": jnp.arange(8) < 1,
    }
    row = jnp.asarray(random.integers(0, 2, count), jnp.int32)
    low_res = image[:, ::2, ::2]
    return {
        "image": jnp.asarray(image),
        "low_res": jnp.asarray(low_res),
        "row": row,
        "bank": bank,
        "label": row,
    }


def test_dropped_text_is_the_familys_null_text() -> None:
    model = study_of().cascade["base4"]
    model = dataclasses.replace(model, finetune=dataclasses.replace(model.finetune, text_drop=0.3))
    _, cond = seen_by(model, batch_of(), train=True)
    dropped = np.asarray(cond["text"][:, 0, 0] == 0.5)
    assert 8 < dropped.sum() < 32
    assert (np.asarray(cond["text"])[~dropped] == 1).all()
    assert (np.asarray(cond["text_mask"]).sum(axis=1) == np.where(dropped, 1, 8)).all()
    _, cond = seen_by(model, batch_of(), train=False)
    assert (np.asarray(cond["text"]) == 1).all() and cond["text_mask"].all()


def test_label_networks_get_labels_alone() -> None:
    unet = ("unet.conditioning=label", "finetune.text_drop=0", "augmentation=none", "sampler.aug_level=0")
    words = [f"cascade.{name}.{word}" for name in ("base4", "sr8") for word in unet]
    model = study_of(*words, "sweep.phases={}").cascade["sr8"]
    _, cond = seen_by(model, batch_of(), train=True)
    assert set(cond) == {"label", "low_res"}  # without augmentation the network is told no level


@pytest.mark.parametrize(("kind", "whole"), [("continuous", False), ("discrete", True)])
def test_noise_on_the_low_resolution_image_has_every_level(kind: str, whole: bool) -> None:
    model = study_of(f"cascade.sr8.augmentation={kind}").cascade["sr8"]
    _, cond = seen_by(model, batch_of(256), train=True)
    told = np.asarray(cond["aug_time"])
    assert told.min() < 50 and told.max() > 900 and abs(told.mean() - 500) < 60
    assert (told == np.round(told)).all() == whole
    assert cond["low_res"].shape == (256, 8, 8, 1)


def test_crops_are_drawn_for_training_and_central_for_validation() -> None:
    model = study_of("cascade.sr8.finetune.crop=4").cascade["sr8"]
    for train in (True, False):
        z_t, cond = seen_by(model, batch_of(), train)
        assert z_t.shape == cond["low_res"].shape == (64, 4, 4, 1)


def test_cut_takes_the_same_square_of_both(side: int = 4) -> None:
    images = jax.random.uniform(rng.root(0), (200, 12, 12, 2))
    low_res = shrink(images, 6)
    found, small = cut(images, low_res, side, rng.root(1))
    assert found.shape == (200, 4, 4, 2) and small.shape == (200, 2, 2, 2)
    np.testing.assert_allclose(shrink(found, 2), small, rtol=1e-6)
    again, _ = cut(images, low_res, side, rng.root(1))
    assert (found == again).all()
    # the corners lie anywhere on the low-resolution grid, and nowhere else
    first = images[:, ::2, ::2].reshape(200, 36, 2)
    corner = np.argmax(np.asarray((first == found[:, :1, 0]).all(axis=2)), axis=1)
    assert set(corner) == {6 * i + j for i in range(5) for j in range(5)}
    centre, centre_small = cut(images, low_res, side, None)
    assert (centre == images[:, 4:8, 4:8]).all() and (centre_small == low_res[:, 2:4, 2:4]).all()


@pytest.mark.parametrize("side", [3, 14])
def test_cut_refuses_a_side_that_does_not_fit(side: int) -> None:
    with pytest.raises(ConfigError, match="multiple of 2, at most 12"):
        cut(jnp.zeros((1, 12, 12, 1)), jnp.zeros((1, 6, 6, 1)), side, None)


def test_learned_variance_is_trained_and_leaves_the_noise_channels_alone() -> None:
    """DeepFloyd IF's settings: L_hybrid's gradient is L_simple's in the first channels, L_vlb's else."""
    settings = experiment.Diffusion(
        schedule="cosine", num_timesteps=1000, prediction="eps", learned_variance=True
    )
    x = jax.random.uniform(rng.root(0), (16, 4, 4, 3), minval=-1.0)
    start = 0.3 * jax.random.normal(rng.root(1), (16, 4, 4, 6))

    def loss(output: jax.Array, hybrid: bool) -> jax.Array:
        chosen = settings if hybrid else dataclasses.replace(settings, learned_variance=False)
        return diffusion_loss(lambda z_t, time, cond: output, chosen, x, None, rng.root(2))[0]

    gradient = jax.grad(loss)
    both, simple = gradient(start, True), gradient(start, False)
    assert (both[..., :3] == simple[..., :3]).all()
    assert (simple[..., 3:] == 0).all()
    assert (jnp.abs(both[..., 3:]).max(axis=(1, 2, 3)) > 0).all()  # of every image
    # the true reverse variance lies between the bounds: outputs beyond them are pulled back
    beyond = gradient(start.at[..., 3:].set(3.0), True)[..., 3:]
    assert float(jnp.mean(beyond)) > 0


def test_init_of_another_model_is_refused_before_any_work(
    tmp_path: pathlib.Path, reference_run: pathlib.Path
) -> None:
    code, text = tune(tmp_path, reference_run / "finetune-1" / "checkpoints" / "40")
    assert code == 2
    assert "cascade.base4.finetune.init" in text
    assert "use a checkpoint of a base model" in text
    assert not (tmp_path / "tuned").exists()


def test_weights_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands behind the record, for one that does not tell."""
    settings = study_of()
    network = experiment.network_of(settings, "base4")
    unet = finetune.trainer(settings.cascade["base4"], network).unet

    def found(**params: Any) -> str:
        monkeypatch.setattr(initial, "load_weights", lambda folder: ({"params": params, "stats": {}}, {}))
        with pytest.raises(CheckpointError) as error:
            initial.weights_of("init", unet, "base4")
        return str(error.value)

    whole = jax.tree.map(lambda leaf: np.zeros(leaf.shape), abstract(unet)["params"])
    assert "conv_in/bias is missing there" in found(
        **{**whole, "conv_in": {"kernel": np.zeros((3, 3, 1, 8))}}
    )
    assert "more is not in this model" in found(**whole, more=np.zeros(1))
    wrong = {"kernel": np.zeros((3, 3, 2, 8)), "bias": np.zeros(8)}
    assert "conv_in/kernel is (3, 3, 2, 8) there, (3, 3, 1, 8) expected" in found(
        **{**whole, "conv_in": wrong}
    )


def test_init_that_is_not_there_is_refused_before_any_work(tmp_path: pathlib.Path) -> None:
    code, text = tune(tmp_path, tmp_path / "nothing")
    assert code == 2
    assert "cascade.base4.finetune.init" in text
    assert not (tmp_path / "tuned").exists()


def test_exec_runs_one_part_in_its_own_process(tmp_path: pathlib.Path, reference_run: pathlib.Path) -> None:
    run = tmp_path / "tiny"
    shutil.copytree(reference_run, run)
    old = json.loads((run / "score-3" / "done.json").read_text())["result"]
    shutil.rmtree(run / "score-3")
    done = study.synthaug("exec", str(run), "--stage", "score", "--part", "3")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "score-3" / "done.json").read_text())["result"] == old
    assert study.synthaug("exec", str(run), "--stage", "score", "--part", "3").returncode == 0
    assert study.synthaug("exec", str(run), "--stage", "score", "--part", "99").returncode == 2


def test_two_devices_train_as_one(tmp_path: pathlib.Path, reference_run: pathlib.Path) -> None:
    """A batch split over two devices gives the same losses up to rounding: the site changes no result."""
    site = tmp_path / "site.yaml"
    site.write_text("devices: 2\nworkers: 1\n")
    line = ["run", str(study.TINY), "--runs", str(tmp_path), "--site", str(site), "--quiet", "--stage"]
    for stage in ("scan", "prepare", "collect", "encoder"):
        done = study.synthaug(*line, stage)
        assert done.returncode == 0, done.stderr
    split = read_metrics(tmp_path / "tiny" / "encoder-0" / "metrics.jsonl")
    whole = read_metrics(reference_run / "encoder-0" / "metrics.jsonl")
    for step in range(1, 11):  # later on, rounding grows with training
        assert split[step]["loss"] == pytest.approx(whole[step]["loss"], rel=1e-3)


@pytest.mark.slow
def test_pretraining_on_half_the_classes_beats_scratch() -> None:
    """Zero to four with their captions first, then all ten in few steps: lower loss on images never seen.

    The same batches and noise for both, three seeds. tests/benchmarks/pretrain.py has it with FID, through
    the pipeline, and with a longer training from scratch.
    """
    settings = study_of("cascade.base4.unet.channels=16")
    model, network = settings.cascade["base4"], experiment.network_of(settings, "base4")
    functions = finetune.trainer(model, network)
    source = sources.scan(settings.data)
    reader = sources.Reader(source)
    pixels = np.stack([reader.read(row) for row in range(len(source))])
    digits = pixels.reshape(-1, 4, 2, 4, 2, 1).mean(axis=(2, 4))
    labels, held_out = source.class_index, sources.split(source.class_index, 5)
    text, mask = embed_prompts(settings.text_encoder, [name for _, name in source.classes])
    bank = {"text": jnp.asarray(text), "mask": jnp.asarray(mask)}
    bank |= {"null_text": jnp.zeros(text.shape[1:]), "null_mask": jnp.zeros(mask.shape[1:], bool)}

    def batch(rows: np.ndarray) -> dict[str, Any]:
        return {"image": digits[rows].astype(np.uint8), "row": labels[rows], "bank": bank}

    def train(state: Any, rows: np.ndarray, num_steps: int, seed: int) -> Any:
        random = np.random.default_rng(seed)
        for step in range(num_steps):
            key = rng.at(rng.root(seed), step)
            state, _ = functions.update(state, batch(random.choice(rows, 64)), key)
        return state

    for seed in range(3):
        rows = np.flatnonzero(~held_out)
        before = train(functions.init(rng.root(seed)), rows[labels[rows] < 5], 250, seed)
        starts = functions.adopt({"params": before["ema"], "stats": {}}), functions.init(rng.root(seed + 10))
        ends = [averaged(train(start, rows, 80, seed + 20)) for start in starts]
        unseen = batch(np.flatnonzero(held_out))
        found = [float(functions.validate(weights, unseen, rng.root(7))) for weights in ends]
        assert found[0] < 0.8 * found[1], found


def test_large_split_is_read_batch_by_batch(
    reference_run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a split does not fit into memory, the same images come from the disk, in the order asked for."""
    from synthaug.rundir import RunDir
    from synthaug.stages import sets

    run, numbers = RunDir(reference_run), np.array([1400, 3, 3, 700, 0])  # of shards of 400 images
    kept = sets.take_real(run, "train", 8, numbers)
    monkeypatch.setattr(sets, "KEEP_BYTES", 0)
    monkeypatch.setattr(sets, "load_real", None)
    read = sets.take_real(run, "train", 8, numbers)
    assert np.array_equal(kept[0], read[0]) and np.array_equal(kept[1], read[1])
    assert not np.array_equal(read[0][0], read[0][1]) and np.array_equal(read[0][1], read[0][2])
