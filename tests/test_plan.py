"""The plan: pure data, the same for every executor."""

from __future__ import annotations

import json
import pathlib

import pytest

from synthaug import experiment
from synthaug.errors import RunError
from synthaug.launch import local
from synthaug.launch.plan import make_plan, render, to_json
from synthaug.rundir import RunDir

JOBS = sorted((pathlib.Path(__file__).parent.parent / "jobs").glob("*.yaml"))
DIGITS = next(p for p in JOBS if p.name == "digits.yaml")


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_every_plan_equals_its_golden_text(path: pathlib.Path) -> None:
    golden = pathlib.Path(__file__).parent / "golden" / f"plan-{path.stem}.txt"
    assert render(make_plan(experiment.load(path))) == golden.read_text(), (
        f"{path.name} is planned otherwise than before. If that is meant: "
        f"synthaug plan {path} > tests/golden/{golden.name}, and look at the diff."
    )


def test_stages_come_after_what_they_need() -> None:
    seen: set[str] = set()
    for stage in make_plan(experiment.load(DIGITS)).stages:
        assert set(stage.after) <= seen
        seen.add(stage.name)


def test_plan_as_json_holds_every_part() -> None:
    plan = make_plan(experiment.load(DIGITS))
    tree = json.loads(to_json(plan))
    assert [len(s["parts"]) for s in tree["stages"]] == [len(s.parts) for s in plan.stages]
    assert tree["stages"][-1]["name"] == "report"


def test_sweep_grid_is_the_product_of_its_values() -> None:
    phase = experiment.load(DIGITS).sweep.phases["base"]
    points = phase.grid.points()
    assert len(points) == len(phase.grid.guidance_weight) * len(phase.grid.logvar_mix)
    assert points[0] == {"guidance_weight": 1.0, "logvar_mix": 0.0}
    assert len({tuple(p.items()) for p in points}) == len(points)


def test_arms_without_real_images_ignore_subsets() -> None:
    subsets = "classify.subsets={all: {}, five: {per_class: 5}}"
    plan = make_plan(experiment.load(DIGITS, [subsets, "classify.seeds=[0]"]))
    arms = [part.args for part in plan.stage("classify").parts]
    assert {a["subset"] for a in arms if a["mix"] == "generated"} == {"all"}
    assert {a["subset"] for a in arms if a["mix"] == "real"} == {"all", "five"}
    assert len({tuple(a.items()) for a in arms}) == len(arms)


def test_a_study_without_sweep_samples_from_its_settings() -> None:
    stages = "stages=[]"
    plan = make_plan(experiment.load(DIGITS, [stages, "sweep.phases={}"]))
    names = ["scan", "prepare", "collect", "embed", "finetune", "sample", "report"]
    assert [s.name for s in plan.stages] == names


def test_force_forgets_the_stage_and_what_depends_on_it(tmp_path: pathlib.Path) -> None:
    plan, run = make_plan(experiment.load(DIGITS)), RunDir(tmp_path)
    for stage in plan.stages:
        for part in range(len(stage.parts)):
            run.part_dir(stage.name, part).mkdir()
            run.finish(stage.name, part, {"result": {}})
    assert local.forget(plan, run, "classify", 3) == {"classify", "report"}
    assert local.select(plan, None, None, run) == [("classify", 3), ("report", 0)]
    assert local.select(plan, None, None, run, until="score") == []
    local.forget(plan, run, "sample", None)
    left = {name for name, _ in local.select(plan, None, None, run)}
    assert left == {"sample", "features", "score", "classify", "report"}


def test_selection_errors(tmp_path: pathlib.Path) -> None:
    plan, run = make_plan(experiment.load(DIGITS)), RunDir(tmp_path)
    with pytest.raises(RunError, match="--stage smaple: no such stage in this plan; expected one of scan"):
        local.select(plan, "smaple", None, run)
    with pytest.raises(RunError, match="--part 99: sample has parts 0 to 7"):
        local.select(plan, "sample", 99, run)
    with pytest.raises(RunError, match="name one stage"):
        local.select(plan, None, 3, run)


def test_a_study_of_sets_made_elsewhere_has_no_generator() -> None:
    made = "{source: npz, path: x.npz, num_images: 3000, resolution: 8}"
    overrides = ["cascade={}", "sweep.phases={}", "data.resolutions=[8]", f"sets={{other: {made}}}"]
    plan = make_plan(experiment.load(DIGITS, [*overrides, "classify.copies=[1, 2]", "classify.seeds=[0]"]))
    names = [s.name for s in plan.stages]
    measured = ["encoder", "features-real", "reference", "features", "score"]
    assert names == ["scan", "prepare", "collect", *measured, "classify", "report"]
    prepared = [part.args for part in plan.stage("prepare").parts]
    assert [p["set"] for p in prepared] == ["train", "train", "val", "other", "other", "other"]
    assert {part.args["set"] for part in plan.stage("classify").parts} == {"", "other"}
    scored = [(part.args["set"], part.args["resolution"]) for part in plan.stage("score").parts]
    assert scored == [("other", 8), ("real train", 8), ("real val", 8)]


def test_a_model_that_starts_from_another_waits_for_it() -> None:
    overrides = ["classify.models.tuned={kind: resnet, init: resnet}", "classify.seeds=[0]"]
    plan = make_plan(experiment.load(DIGITS, overrides))
    tuned = plan.stage("classify-tuned")
    assert tuned.after == ("classify",) and {p.args["model"] for p in tuned.parts} == {"tuned"}
    assert "tuned" not in {p.args["model"] for p in plan.stage("classify").parts}


def test_blocks_of_a_part_are_forgotten_and_no_others(tmp_path: pathlib.Path) -> None:
    run, folder = RunDir(tmp_path), tmp_path / "sets" / "train" / "8"
    folder.mkdir(parents=True)
    names = [f"shard-{i:05}{suffix}" for i in range(3) for suffix in (".json", ".arrayrecord")]
    for name in names:
        (folder / name).touch()
    run.forget_shards("train", range(1, 2))
    assert sorted(f.name for f in folder.iterdir()) == sorted(n for n in names if "00001" not in n)


def test_a_point_of_the_sweep_is_an_array_of_shards_and_is_measured_once() -> None:
    plan = make_plan(experiment.load(DIGITS, ["sample.shard_size=100", "sample.shards_per_part=3"]))
    images, measured = plan.stage("sweep-base"), plan.stage("measure-base")
    assert images.kind == measured.kind == "array"
    assert len(images.parts) == 2 * len(measured.parts)  # 355 images are 4 shards
    args = [part.args for part in images.parts[:3]]
    assert [(a["number"], a["shard"], a["num_shards"]) for a in args] == [(0, 0, 3), (0, 3, 1), (1, 0, 3)]
    assert [part.args["number"] for part in measured.parts] == list(range(15))
    assert measured.after == ("sweep-base", "reference")


def test_sets_are_encoded_in_ranges_by_every_encoder() -> None:
    settings = ["score.images_per_part=1000", "score.further={other: {batch_size: 32}}"]
    plan = make_plan(experiment.load(DIGITS, settings))
    assert [part.args["encoder"] for part in plan.stage("encoder").parts] == ["", "other"]
    real = [part.args for part in plan.stage("features-real").parts]
    ranges = [(a["first"], a["num_images"]) for a in real if a["set"] == "real train" and not a["encoder"]]
    assert ranges == 2 * [(0, 1000), (1000, 442)]  # at 4 and at 8 px
    assert len(plan.stage("reference").parts) == 2 * 2 * 2
    generated = [part.args for part in plan.stage("features").parts]
    assert {a["set"] for a in generated} == {"generated"} and len(generated) == 2 * 2 * 2
    scored = [(p.args["set"], p.args["resolution"], p.args["encoder"]) for p in plan.stage("score").parts]
    assert len(scored) == len(set(scored)) == 2 * 2 * 3
