"""Checkpoints: exact, whole or refused, kept as the settings say, and safe from a kill at any moment.

Train state, digests and retention run in this process; real kills are in test_resume.py.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import json
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from synthaug.errors import CheckpointError, RunError
from synthaug.experiment import Saving
from synthaug.train import digest, steps
from synthaug.train.checkpoint import Checkpoints, load_weights
from synthaug.train.state import averaged, create

IDENTITY = {"data": "d" * 64, "experiment": "e" * 64, "model": "m" * 64}
KEEP_ALL = Saving(keep_latest=100)


def make_state(step, *, width=4, with_ema=True):
    """Returns a state whose every value depends on the step; integer keys, bf16 and odd values included."""
    key = jax.random.key(step)
    params = {
        "blocks": {i: {"bias": jnp.full((width,), step + i, jnp.bfloat16)} for i in range(2)},
        "dense": {"kernel": jax.random.normal(key, (3, width)), "scale": jnp.float32(-0.0)},
    }
    stats = {"mean": jnp.array([jnp.nan, jnp.inf, 1e-40]) * step}
    state = create({"params": params, "stats": stats}, optax.adam(1e-3), with_ema=with_ema)
    return {**state, "step": jnp.int32(step), "ema": jax.tree.map(lambda x: x + 1, state["ema"])}


def same(a, b):
    """Whether two trees agree in structure, dtypes and every bit."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


@contextlib.contextmanager
def opened(directory, saving=KEEP_ALL, identity=IDENTITY, warnings=None):
    warn = [].append if warnings is None else warnings.append
    with contextlib.closing(Checkpoints(directory, saving, identity, warn)) as checkpoints:
        yield checkpoints


def write(directory, *numbers, saving=KEEP_ALL, best=None, **kwargs):
    with opened(directory, saving) as checkpoints:
        for number in numbers:
            metrics = {"best": best[number]} if best and number in best else {}
            checkpoints.save(number, make_state(number, **kwargs), metrics)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two")
    write(directory, 10, 20)
    return directory


@pytest.fixture
def copied(two_steps, tmp_path):
    return shutil.copytree(two_steps, tmp_path / "checkpoints")


# ------------------------------------------------------------------------------------- whole checkpoints


@pytest.mark.parametrize("with_ema", [True, False])
def test_restored_state_equals_the_saved_one_bit_for_bit(tmp_path, with_ema):
    write(tmp_path, 7, with_ema=with_ema)
    state = make_state(7, with_ema=with_ema)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest() == 7
        assert same(checkpoints.restore(7, state), state)
        shapes = jax.eval_shape(lambda: make_state(0, with_ema=with_ema))
        assert same(checkpoints.restore(7, shapes), state)


def test_saved_state_may_be_donated_at_once(tmp_path):
    grow = jax.jit(lambda tree: jax.tree.map(lambda x: x * 1.01 + 1.0, tree), donate_argnums=0)
    state, wanted = {"params": {"w": jnp.ones((512, 512)), "b": jnp.ones(3)}}, {}
    with opened(tmp_path) as checkpoints:
        for step in range(1, 6):
            wanted[step] = jax.tree.map(lambda x: np.array(jnp.copy(x)), state)
            checkpoints.save(step, state, {})
            for _ in range(3):
                state = grow(state)
        checkpoints.wait()
        for step, values in wanted.items():
            assert same(checkpoints.restore(step, state), values), f"step {step} holds later values"


def test_empty_directory_has_no_latest_and_stays_untouched(tmp_path):
    with opened(tmp_path / "none") as checkpoints:
        assert checkpoints.latest() is None
    assert not (tmp_path / "none").exists()


def test_save_refuses_to_overwrite(copied):
    with opened(copied) as checkpoints, pytest.raises(CheckpointError, match="20: exists already"):
        checkpoints.save(20, make_state(99), {})
    assert same(load_weights(copied / "20")[0], jax.device_get(averaged(make_state(20))))


def test_digest_records_step_identity_metrics_and_leaves(tmp_path):
    write(tmp_path, 5, best={5: 0.25})
    record = json.loads((tmp_path / "5" / "digest.json").read_text())
    assert (record["step"], record["identity"], record["metrics"]) == (5, IDENTITY, {"best": 0.25})
    assert [["params", "blocks", 0, "bias"], "bf16[4]"] in record["leaves"]


def test_threads_end_and_nothing_is_printed(tmp_path, capfd):
    before = set(threading.enumerate())
    write(tmp_path, 1, 2)
    with opened(tmp_path) as checkpoints:
        checkpoints.restore(checkpoints.latest(), make_state(0))
    load_weights(tmp_path / "2")
    assert set(threading.enumerate()) == before
    assert capfd.readouterr() == ("", "")


# --------------------------------------------------------------------------------------------- weights


def test_load_weights_returns_the_average_without_being_told_the_tree(two_steps):
    weights, record = load_weights(two_steps / "20")
    assert record["step"] == 20
    assert same(weights, jax.device_get(averaged(make_state(20))))
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(weights))
    assert list(weights["params"]["blocks"]) == [0, 1], "integer keys became texts"


def test_load_weights_without_average_returns_params(tmp_path):
    write(tmp_path, 3, with_ema=False)
    state = jax.device_get(make_state(3, with_ema=False))
    assert same(load_weights(tmp_path / "3")[0], {"params": state["params"], "stats": state["stats"]})


def test_load_weights_takes_relative_and_moved_folders(copied, monkeypatch):
    shutil.move(copied / "20", copied.parent / "mine")
    monkeypatch.chdir(copied.parent)
    assert load_weights(pathlib.Path("mine"))[1]["step"] == 20


def test_load_weights_names_what_is_there_when_a_step_is_missing(two_steps):
    with pytest.raises(CheckpointError, match=r"30: no such checkpoint; use another step of .*: 10, 20\."):
        load_weights(two_steps / "30")


# ----------------------------------------------------------------------------------- torn and altered


def flip(path):
    data = bytearray(path.read_bytes())
    at = random.Random(path.name).randrange(len(data))
    data[at] ^= 1 << at % 8
    path.write_bytes(data)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def expect_rejected(directory, step, cause, before):
    """Both readers refuse the step and name the cause; `latest` moves it aside and takes the one before."""
    with pytest.raises(CheckpointError) as error:
        load_weights(directory / str(step))
    assert str(directory / str(step)) in str(error.value) and cause in str(error.value)
    warnings = []
    with opened(directory, warnings=warnings) as checkpoints:
        with pytest.raises(CheckpointError):
            checkpoints.restore(step, make_state(0))
        assert checkpoints.latest() == before
        assert len(warnings) == 1 and f"{directory}/{step}:" in warnings[0] and cause in warnings[0]
        assert (directory / "rejected" / str(step)).is_dir() and not (directory / str(step)).exists()
        if before:
            assert same(checkpoints.restore(before, make_state(0)), make_state(before))


def files_of(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("damage", [flip, truncate, os.remove])
def test_damage_to_any_file_is_named_and_never_loaded(two_steps, tmp_path, damage):
    names = files_of(two_steps / "20")
    kinds = {name.name for name in names}
    assert {"digest.json", "_METADATA", "manifest.ocdbt", "_sharding"} <= kinds and len(names) >= 8
    for number, name in enumerate(names):
        directory = shutil.copytree(two_steps, tmp_path / str(number))
        path = directory / "20" / name
        if path.stat().st_size == 0:
            continue
        damage(path)
        expect_rejected(directory, 20, name.as_posix(), before=10)


def test_every_single_flip_of_a_digest_is_found(two_steps, tmp_path):
    text = (two_steps / "20" / "digest.json").read_bytes()
    for at in random.Random(0).sample(range(len(text)), 300):
        altered = bytearray(text)
        altered[at] ^= 1 << at % 8
        (tmp_path / "digest.json").write_bytes(altered)
        with pytest.raises(digest.Unusable, match=r"digest\.json was altered"):
            digest.read(tmp_path)


def test_added_file_is_refused(copied):
    (copied / "20" / "state" / "extra").write_text("x")
    expect_rejected(copied, 20, "state/extra", before=10)


def test_renamed_step_is_refused(copied):
    (copied / "20").rename(copied / "30")
    warnings = []
    with opened(copied, warnings=warnings) as checkpoints:
        assert checkpoints.latest() == 10
    assert "30: holds step 20" in warnings[0]


def test_nothing_whole_is_left_means_a_new_start(copied):
    warnings = []
    flip(copied / "20" / "state" / "_METADATA")
    (copied / "10" / "digest.json").unlink()
    with opened(copied, warnings=warnings) as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(10, make_state(10), {})
    assert sorted(w.split(":")[0][-2:] for w in warnings) == ["10", "20"]
    assert load_weights(copied / "10")[1]["step"] == 10


def test_torn_folders_do_not_pile_up_but_altered_ones_stay(copied):
    flip(copied / "20" / "state" / "_METADATA")
    for torn in (30, 40, 50):
        (copied / str(torn) / "state.orbax-checkpoint-tmp").mkdir(parents=True)
        with opened(copied) as checkpoints:
            assert checkpoints.latest() == 10
    assert sorted(os.listdir(copied / "rejected")) == ["20", "50"]


# -------------------------------------------------------------------------------- foreign, misshapen


def test_foreign_checkpoint_is_named_by_its_keys_and_nothing_is_moved(copied):
    (copied / "30").mkdir()
    before = files_of(copied)
    with opened(copied, identity={**IDENTITY, "model": "x" * 64}) as checkpoints:
        for read in (checkpoints.latest, lambda: checkpoints.restore(10, make_state(0))):
            with pytest.raises(CheckpointError) as error:
                read()
            text = str(error.value)
            assert "another model (model mmmmmmmmmmmm on disk, xxxxxxxxxxxx now)" in text
            assert "another run name" in text and "data" not in text.replace(str(copied), "")
    assert files_of(copied) == before and (copied / "30").is_dir()


def test_misshapen_leaf_is_named_with_both_shapes(two_steps):
    with opened(two_steps) as checkpoints:
        with pytest.raises(
            CheckpointError, match=r"params/blocks/0/bias is bf16\[4\] on disk, bf16\[8\] exp"
        ):
            checkpoints.restore(20, make_state(0, width=8))
        other = make_state(0)
        other["params"]["dense"]["scale"] = other["params"]["dense"]["scale"].astype(jnp.float16)
        with pytest.raises(CheckpointError, match=r"params/dense/scale is f32\[\] on disk, f16\[\] expected"):
            checkpoints.restore(20, other)
        with pytest.raises(CheckpointError, match=r"ema/blocks/0/bias is bf16\[4\] on disk, absent expected"):
            checkpoints.restore(20, make_state(0, with_ema=False))


# ------------------------------------------------------------------------------------------ retention


def test_retention_keeps_newest_best_and_listed_steps(tmp_path):
    saving = Saving(keep_latest=2, keep_best=2, keep_steps=(20, 999))
    best = {10: 5.0, 20: 9.0, 30: 1.0, 40: float("nan"), 50: 3.0, 60: 2.0, 70: 8.0, 80: 7.0}
    write(tmp_path, *range(10, 90, 10), saving=saving, best=best)
    assert steps.listed(tmp_path) == [20, 30, 60, 70, 80]
    assert sorted(os.listdir(tmp_path)) == ["20", "30", "60", "70", "80"], "something was left behind"
    write(tmp_path, 90, saving=saving, best={90: 0.5})
    assert steps.listed(tmp_path) == [20, 30, 80, 90]


def test_equal_scores_keep_the_newer_step():
    saving = Saving(keep_latest=1, keep_best=1)
    assert steps.kept(saving, {1: {"best": 0.5}, 2: {"best": 0.5}, 3: {}}) == {2, 3}


def test_retention_leaves_torn_steps_for_latest_to_name(copied):
    (copied / "20" / "digest.json").unlink()
    write(copied, 30, 40, saving=Saving(keep_latest=1, keep_best=0))
    assert steps.listed(copied) == [20, 40]


# ------------------------------------------------------------------------------- a kill at any moment


class Snapshots:
    """Copies a directory at every file operation of this process: each copy is what a kill -9 would leave."""

    EVENTS = frozenset({"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"})

    def __init__(self, source, target):
        self.source, self.target = source, target
        self.taken, self.seen = [], set()
        self.label, self.active = None, False
        self.lock = threading.RLock()
        self.inside = False
        sys.addaudithook(self.hook)  # cannot be removed, so `active` switches it off

    def hook(self, event, args):
        if self.active and event in self.EVENTS:
            with self.lock:
                if not self.inside:
                    self.inside = True
                    try:
                        self.take()
                    finally:
                        self.inside = False

    def take(self):
        files = {}
        for path in sorted(self.source.rglob("*")):
            with contextlib.suppress(OSError):  # tensorstore's threads raise no events and go on
                files[path.relative_to(self.source)] = path.read_bytes() if path.is_file() else None
        state = hash(tuple(files.items()))
        if state in self.seen:
            return
        self.seen.add(state)
        copy = self.target / str(len(self.taken))
        copy.mkdir(parents=True)
        for name, data in files.items():
            if data is None:
                (copy / name).mkdir(parents=True, exist_ok=True)
            else:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(data)
        self.taken.append((copy, self.label))


def test_a_kill_at_any_file_operation_leaves_a_directory_that_resumes(tmp_path):
    source = tmp_path / "checkpoints"
    snapshots = Snapshots(source, tmp_path / "snapshots")
    with opened(source, Saving(keep_latest=1, keep_best=0)) as checkpoints:
        for step in (1, 2):
            state = make_state(step)
            snapshots.label, snapshots.active = step, True
            checkpoints.save(step, state, {})
            checkpoints.wait()
            snapshots.active = False
    moments = collections.Counter()
    for copy, step in snapshots.taken:
        moments.update(kinds_of_moment(copy))
        whole = [s for s in steps.listed(copy) if (copy / str(s) / "digest.json").exists()]
        warnings = []
        with opened(copy, warnings=warnings) as checkpoints:
            latest = checkpoints.latest()
            assert latest == max(whole, default=None), (copy, warnings)
            assert step == 1 or latest in (1, 2), "the checkpoint before was lost"
            assert all("has no digest.json" in w for w in warnings), warnings
            if latest:
                assert same(checkpoints.restore(latest, make_state(0)), make_state(latest))
            checkpoints.save(step + 1, make_state(step + 1), {})
        assert not any(copy.glob(".deleting-*"))
    # a test that missed the moments that matter would prove nothing
    assert moments["writing"] >= 5 and moments["written, no digest"] >= 2, moments
    assert moments["digest, nothing deleted yet"] >= 1 and moments["deleting"] >= 5, moments


def kinds_of_moment(directory):
    for step in (1, 2):
        folder = directory / str(step)
        if folder.is_dir() and not (folder / "digest.json").exists():
            yield "written, no digest" if (folder / "state").is_dir() else "writing"
    if all((directory / str(step) / "digest.json").exists() for step in (1, 2)):
        yield "digest, nothing deleted yet"
    if any(directory.glob(".deleting-*")):
        yield "deleting"


# --------------------------------------------------------------------------------------- full disks


@contextlib.contextmanager
def small_files(limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def big_state(step):
    noise = jax.random.normal(jax.random.key(step), (300, 300))  # 360 kB that do not compress
    return {"step": jnp.int32(step), "params": {"w": noise}, "ema": {}, "opt": {}, "stats": {}}


def expect_unwritten(directory, words):
    with opened(directory) as checkpoints:
        with pytest.raises(RunError) as error:
            checkpoints.save(2, big_state(2), {})
            checkpoints.wait()
        text = str(error.value)
        assert str(directory / "2") in text and words in text and "\n" not in text and len(text) < 300
        assert steps.listed(directory) == [1], "what was half written still fills the disk"
        checkpoints.poll()  # the error comes once
        assert checkpoints.latest() == 1
        assert same(checkpoints.restore(1, big_state(0)), big_state(1))


def test_failed_write_is_one_line_and_leaves_earlier_checkpoints(tmp_path, capfd, caplog):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, big_state(1), {})
    with small_files(100_000):
        expect_unwritten(tmp_path, "File too large")
    write(tmp_path, 2)  # the same process can go on afterwards
    gc.collect()  # asyncio reports a lost error when its task is collected
    assert capfd.readouterr() == ("", "") and caplog.records == []


def test_failed_digest_leaves_earlier_checkpoints(tmp_path, monkeypatch):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, big_state(1), {})
        checkpoints.wait()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    expect_unwritten(tmp_path, "No space left on device")


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_and_read_only_disks_are_named(small_disk, capfd):
    with opened(small_disk) as checkpoints:
        checkpoints.save(1, big_state(1), {})
    expect_unwritten(small_disk, "it needs 0.4 MB and the disk has 0.")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with opened(small_disk) as checkpoints:
        assert checkpoints.latest() == 1
        with pytest.raises(RunError, match="Read-only file system"):
            checkpoints.save(2, big_state(2), {})
        assert same(checkpoints.restore(1, big_state(0)), big_state(1))
    assert load_weights(small_disk / "1")[1]["step"] == 1
    assert capfd.readouterr() == ("", "")
