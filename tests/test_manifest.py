"""Files that appear once, the plan of all images, and the markers of shards."""

from __future__ import annotations

import dataclasses
import errno
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from synthaug import commit, manifest
from synthaug.errors import DataError, RunError
from synthaug.manifest import ClassEntry, ClassTable, Shard

UNHURRIED = hypothesis.settings(deadline=None)  # the machine may be busy
COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(sum)


def table_of(counts: list[int]) -> ClassTable:
    return ClassTable(tuple(ClassEntry(f"n{k:02d}", f"class {k}", c, 1) for k, c in enumerate(counts)))


def prompts_of(counts: list[int], per_class: int = 1) -> dict[str, list[str]]:
    return {f"n{k:02d}": [f"{k}, take {j}" for j in range(per_class)] for k in range(len(counts))}


def shard_of(index: int, first: int, count: int) -> Shard:
    return Shard(
        index=index,
        first=first,
        count=count,
        file=f"shard-{index:05d}.arrayrecord",
        bytes=10,
        sha256="aa",
        images_sha256="bb",
        settings="cc",
        weights="dd",
        attempt=0,
    )


def files(folder: pathlib.Path) -> list[str]:
    return sorted(os.listdir(folder))


# ------------------------------------------------------------------------------------------- commit


def test_second_commit_with_equal_bytes_is_no_operation(tmp_path):
    path = tmp_path / "new" / "a.json"
    assert commit.write_new(path, b"one") is True
    assert commit.write_new(path, b"one") is False
    assert path.read_bytes() == b"one" and files(path.parent) == ["a.json"]


def test_second_commit_with_other_bytes_names_both_hashes(tmp_path):
    path = tmp_path / "a.json"
    commit.write_new(path, b"one")
    with pytest.raises(RunError, match="two attempts differ") as error:
        commit.write_new(path, b"two")
    for content in (b"one", b"two"):
        other = tmp_path / "other"
        other.write_bytes(content)
        assert commit.sha256_file(other) in str(error.value)
    assert path.read_bytes() == b"one" and files(tmp_path) == ["a.json", "other"]


def test_of_many_threads_exactly_one_commits(tmp_path):
    won, barrier = [], threading.Barrier(8)

    def attempt() -> None:
        barrier.wait()
        won.append(commit.write_new(tmp_path / "a", b"same"))

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def test_replace_changes_the_content(tmp_path):
    path = tmp_path / "state.json"
    commit.replace(path, b"one")
    commit.replace(path, b"two")
    assert path.read_bytes() == b"two" and files(tmp_path) == ["state.json"]


@pytest.mark.parametrize("write", [commit.write_new, commit.replace])
@pytest.mark.parametrize(
    ("code", "advice"),
    [(errno.ENOSPC, "free some space"), (errno.EDQUOT, "quota"), (errno.EROFS, "can be written")],
)
def test_refused_write_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, write, code, advice):
    def refuse(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(RunError, match=advice) as error:
        write(tmp_path / "a.json", b"one")
    assert str(tmp_path / "a.json") in str(error.value) and "\n" not in str(error.value)
    assert files(tmp_path) == []


def test_file_size_limit_leaves_nothing_half_written(tmp_path):
    code = """if True:
        import pathlib, resource, sys
        from synthaug import commit, errors
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            commit.write_new(pathlib.Path(sys.argv[1]), b"x" * 5000)
        except errors.RunError as error:
            print(error)
    """
    path = tmp_path / "a.json"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "ulimit" in done.stdout and str(path) in done.stdout
    assert files(tmp_path) == []


def test_folder_without_permission_is_named():
    # in a process without root's rights, and outside pytest's folder, which only its owner may enter
    code = """if True:
        import os, pathlib, sys
        from synthaug import commit, errors
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            commit.write_new(pathlib.Path(sys.argv[1]) / "a.json", b"x")
        except errors.RunError as error:
            print(error)
    """
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        done = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
        )
        assert files(pathlib.Path(folder)) == []
        os.chmod(folder, 0o755)
    assert "Permission denied" in done.stdout and "that you may write" in done.stdout


def test_leftovers_go_when_they_are_old(tmp_path):
    old, young = commit.temporary(tmp_path / "a"), commit.temporary(tmp_path / "a")
    old.write_bytes(b"")
    young.write_bytes(b"")
    os.utime(old, (0, 0))
    (tmp_path / "a").write_bytes(b"")
    assert commit.remove_leftovers(tmp_path) == 1
    assert files(tmp_path) == sorted(["a", young.name])


# ------------------------------------------------------------------------------------------ classes


def test_class_table_survives_json():
    table = ClassTable((ClassEntry("n01", "grulla común", 3, 1), ClassEntry("n02", "crane", 4, 2)))
    assert ClassTable.from_json(table.to_json()) == table
    assert table.index_of("n02") == 1


def test_two_classes_may_share_a_name_but_not_a_key():
    assert len(ClassTable((ClassEntry("a", "crane", 1, 1), ClassEntry("b", "crane", 1, 1))).entries) == 2
    with pytest.raises(DataError, match="a stands twice"):
        ClassTable((ClassEntry("a", "crane", 1, 1), ClassEntry("a", "other", 1, 1)))


def test_unknown_class_key_is_answered_with_a_near_one():
    with pytest.raises(DataError, match="did you mean 'n01'"):
        table_of([1, 1]).index_of("n0l")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"entries": [{"key": "a"}]}', '{"entries": 3}'])
def test_torn_class_table_is_refused(text):
    with pytest.raises(DataError, match=r"there\.json"):
        ClassTable.from_json(text, "there.json")


# -------------------------------------------------------------------------------------------- order


@UNHURRIED
@hypothesis.given(COUNTS)
def test_order_has_every_image_once(counts):
    order = manifest.image_order(counts)
    assert np.bincount(order, minlength=len(counts)).tolist() == counts


@UNHURRIED
@hypothesis.given(COUNTS)
@hypothesis.example([99] + [1] * 99)
def test_every_prefix_is_within_one_image_of_proportional(counts):
    order, total = manifest.image_order(counts), sum(counts)
    seen = np.cumsum(np.eye(len(counts), dtype=int)[order], axis=0)
    share = np.arange(1, total + 1)[:, None] * np.array(counts)
    assert (np.abs(seen * total - share) < total).all()  # in integers: exactly


@UNHURRIED
@hypothesis.given(COUNTS, st.integers(1, 4), st.integers(1, 50))
def test_shards_tile_the_plan_whatever_their_size(counts, copies, shard_size):
    plan = manifest.plan_images(table_of(counts), prompts_of(counts), copies, shard_size)
    covered = [i for shard in range(plan.num_shards) for i in plan.range_of(shard)]
    assert covered == list(range(copies * sum(counts))) == list(range(len(plan)))
    for shard in range(plan.num_shards):
        assert set(plan.shard[plan.range_of(shard)].tolist()) == {shard}


@UNHURRIED
@hypothesis.given(COUNTS, st.integers(2, 4))
def test_fewer_copies_are_a_prefix(counts, copies):
    table, prompts = table_of(counts), prompts_of(counts, 3)
    many = manifest.plan_images(table, prompts, copies, 7)
    few = manifest.plan_images(table, prompts, copies - 1, 7)
    for name in ("class_index", "prompt_index", "copy", "shard"):
        assert np.array_equal(getattr(many, name)[: len(few)], getattr(few, name))
    assert np.bincount(many.copy).tolist() == [sum(counts)] * copies


def test_prompts_of_a_class_take_turns():
    plan = manifest.plan_images(table_of([3, 1]), prompts_of([3, 1], 2), 2, 4)
    turns = {0: [], 1: []}
    for i in range(len(plan)):
        turns[int(plan.class_index[i])].append(plan.prompt_of(i))
    assert turns == {0: ["0, take 0", "0, take 1"] * 3, 1: ["1, take 0", "1, take 1"]}


def test_class_without_prompt_is_refused():
    with pytest.raises(DataError, match="class n01 has no prompt"):
        manifest.plan_images(table_of([1, 1]), {"n00": ["a"], "n01": []}, 1, 1)


# ------------------------------------------------------------------------------------------ parquet


@pytest.fixture
def plan() -> manifest.ImagePlan:
    return manifest.plan_images(table_of([5, 3, 1]), prompts_of([5, 3, 1], 2), 3, 4)


def test_plan_survives_the_file(tmp_path, plan):
    path = tmp_path / "plan.parquet"
    assert manifest.write_plan(plan, path) is True
    assert manifest.write_plan(plan, path) is False
    there = manifest.read_plan(path)
    for field in dataclasses.fields(plan):
        assert np.array_equal(getattr(there, field.name), getattr(plan, field.name)), field.name


def test_equal_plans_give_equal_bytes(tmp_path, plan):
    manifest.write_plan(plan, tmp_path / "a")
    manifest.write_plan(plan, tmp_path / "b")
    assert commit.sha256_file(tmp_path / "a") == commit.sha256_file(tmp_path / "b")


def test_plan_reads_as_plain_parquet(tmp_path, plan):
    import pyarrow.parquet as pq

    manifest.write_plan(plan, tmp_path / "plan.parquet")
    rows = pq.read_table(tmp_path / "plan.parquet").to_pylist()
    assert list(rows[0]) == ["index", "class_key", "class_index", "prompt", "copy", "shard"]
    for i in (0, 9, len(plan) - 1):
        k = int(plan.class_index[i])
        expected = (i, plan.keys[k], k, plan.prompt_of(i), plan.copy[i], plan.shard[i])
        assert tuple(rows[i].values()) == expected


def test_other_plan_in_the_same_place_is_refused(tmp_path, plan):
    manifest.write_plan(plan, tmp_path / "plan.parquet")
    other = manifest.plan_images(table_of([5, 3, 1]), prompts_of([5, 3, 1], 2), 3, 5)
    with pytest.raises(RunError, match="holds another plan"):
        manifest.write_plan(other, tmp_path / "plan.parquet")


def test_altered_plan_is_refused(tmp_path, plan):
    path = tmp_path / "plan.parquet"
    manifest.write_plan(plan, path)
    whole = path.read_bytes()
    for data in (b"", whole[:-20], whole[20:], b"PAR1" + bytes(500)):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"plan\.parquet: is no image plan"):
            manifest.read_plan(path)
    with pytest.raises(DataError, match="no such image plan"):
        manifest.read_plan(tmp_path / "absent")


# ------------------------------------------------------------------------------------------ markers


def write_set(folder: pathlib.Path, counts: list[int]) -> None:
    first = 0
    for i, count in enumerate(counts):
        manifest.write_marker(folder, shard_of(i, first, count))
        first += count


def test_markers_give_the_shards_in_order(tmp_path):
    write_set(tmp_path, [4, 4, 2])
    shards = manifest.read_markers(tmp_path, 3, 10)
    assert [(s.index, s.first, s.count) for s in shards] == [(0, 0, 4), (1, 4, 4), (2, 8, 2)]


def test_marker_of_another_attempt_at_the_same_bytes_stays(tmp_path):
    shard = shard_of(0, 0, 4)
    assert manifest.write_marker(tmp_path, shard) is True
    assert manifest.write_marker(tmp_path, dataclasses.replace(shard, attempt=2)) is False
    assert manifest.read_marker(manifest.marker_path(tmp_path, 0)).attempt == 0


def test_marker_of_other_bytes_is_refused_with_both_hashes(tmp_path):
    manifest.write_marker(tmp_path, shard_of(0, 0, 4))
    other = dataclasses.replace(shard_of(0, 0, 4), sha256="ee", images_sha256="ff")
    with pytest.raises(RunError, match=r"two attempts differ.*different pixels.*aa.*ee"):
        manifest.write_marker(tmp_path, other)


def test_missing_shards_and_their_images_are_named(tmp_path):
    write_set(tmp_path, [4] * 6)
    for i in (1, 2, 5):
        manifest.marker_path(tmp_path, i).unlink()
    with pytest.raises(DataError, match=r"3 of 6 shards are missing: shards 1-2, 5; images 4-11, 20-23;"):
        manifest.read_markers(tmp_path, 6, 24)
    with pytest.raises(DataError, match="images 4-11, 20 and later;"):
        manifest.read_markers(tmp_path, 6)


@pytest.mark.parametrize(
    ("first", "count", "message"),
    [(3, 4, "overlaps"), (6, 4, "images 4-5 are missing"), (4, 5, "hold 9 images; expected 8")],
)
def test_shards_that_do_not_fit_are_refused(tmp_path, first, count, message):
    manifest.write_marker(tmp_path, shard_of(0, 0, 4))
    manifest.write_marker(tmp_path, shard_of(1, first, count))
    with pytest.raises(DataError, match=message):
        manifest.read_markers(tmp_path, 2, 8)


@pytest.mark.parametrize("name", ["settings", "weights"])
def test_shards_of_two_makers_are_refused(tmp_path, name):
    manifest.write_marker(tmp_path, shard_of(0, 0, 4))
    manifest.write_marker(tmp_path, dataclasses.replace(shard_of(1, 4, 4), **{name: "other"}))
    with pytest.raises(DataError, match=f"{name} 'other' differ"):
        manifest.read_markers(tmp_path, 2)


def test_renamed_and_torn_markers_are_refused(tmp_path):
    write_set(tmp_path, [4, 4])
    second = manifest.marker_path(tmp_path, 1)
    whole = second.read_text()
    second.write_text(whole[:40])
    with pytest.raises(DataError, match=r"shard-00001\.json"):
        manifest.read_markers(tmp_path, 2)
    second.write_text(manifest.marker_path(tmp_path, 0).read_text())
    with pytest.raises(DataError, match=r"shard-00001\.json: is the marker of 'shard-00000\.arrayrecord'"):
        manifest.read_markers(tmp_path, 2)


def test_set_hash_depends_on_every_shard():
    shards = [shard_of(0, 0, 4), shard_of(1, 4, 4)]
    changed = [shards[0], dataclasses.replace(shards[1], sha256="ab")]
    assert manifest.digest(shards) != manifest.digest(changed)


def test_manifest_imports_without_jax_and_pyarrow():
    code = "import sys, synthaug.prompts, synthaug.manifest; print({'jax', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
