"""The report of a run that is not finished: what there is, and what is not run, with the command."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import pytest

from synthaug import experiment
from synthaug.__main__ import main
from synthaug.experiment import Experiment
from synthaug.launch.parts import score_args
from synthaug.launch.plan import make_plan
from synthaug.reporting import markdown
from synthaug.reporting.write import build
from synthaug.rundir import RunDir
from synthaug.site import Site
from synthaug.stages import report, so_far, work
from synthaug.train.preemption import StopFlag
from tests import reports, study

COMMAND = "synthaug run tests/tiny.yaml"
OTHER = "score.further={other: {kind: dinov2, path: a.safetensors}}"


def run_stage(run: RunDir, settings: Experiment, name: str) -> None:
    plan = make_plan(settings)
    stage = plan.stage(name)
    assert stage is not None
    for part in range(len(stage.parts)):
        work.run_part(run, settings, plan, Site(), name, part, StopFlag(), lambda _: None)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The tiny study with its images prepared, and nothing more."""
    run, settings = RunDir(tmp_path_factory.mktemp("runs") / "tiny"), experiment.load(study.TINY)
    run.create(settings, COMMAND)
    for stage in ("scan", "prepare", "collect"):
        run_stage(run, settings, stage)
    return run.path


@pytest.fixture
def run(collected: pathlib.Path, tmp_path: pathlib.Path) -> RunDir:
    shutil.copytree(collected, tmp_path / "tiny")
    return RunDir(tmp_path / "tiny")


def finish(run: RunDir, stage: str, part: int, result: dict[str, Any]) -> None:
    run.part_dir(stage, part).mkdir()
    run.finish(stage, part, {"result": result})


def words(text: str) -> str:
    return text.replace("\\", "")


def test_a_report_needs_no_more_than_the_images(run: RunDir) -> None:
    settings = run.experiment()
    assert not any(so_far.is_finished(run, settings, s.name) for s in make_plan(settings).stages[3:])
    run_stage(run, settings, "report")
    text = words((run.report / "report.md").read_text())
    for stage in ("measure-base", "measure-enlarge", "score", "classify"):
        assert f"not finished; {COMMAND} --until {stage} goes on" in text, stage
    assert "[Image quality: Table 1](#scores) (not run)" in text
    assert "[Sampling settings: Figures 3 and 4](#sweep) (not run)" in text
    found = report.gather_results(run, settings)
    assert all("not_run" in row for kind in ("sweep", "score", "classify") for row in found[kind])
    assert len(found["sweep"]) == 6 and len(found["score"]) == len(score_args(settings))
    assert found["filter"] is None and found["licences"] == [] and found["per_class"] == []


def test_what_is_finished_is_shown_beside_what_is_not(run: RunDir) -> None:
    settings = run.experiment()
    point = {k: v for k, v in reports.sweep_rows()[0].items() if k not in ("chosen", "pareto")}
    point |= {"phase": "base", "model": "base4", "resolution": 4, "fid": 77.25}
    finish(run, "measure-base", 1, point)
    real = {**reports.score_rows()[2], "resolution": 4, "fid": 33.125}
    names = [(args["set"], args["resolution"]) for args in score_args(settings)]
    finish(run, "score", names.index(("real train", 4)), {"rows": [real]})
    found = report.gather_results(run, settings)
    assert [row["fid"] for row in found["sweep"] if "not_run" not in row] == [77.25]
    assert [row["chosen"] for row in found["sweep"] if "not_run" not in row] == [False]
    assert [row["fid"] for row in found["score"] if "not_run" not in row] == [33.125]
    run_stage(run, settings, "report")
    text = words((run.report / "report.md").read_text())
    assert "77.2" in text and "33.1" in text
    assert (
        "sweep | phase base, model base4, checkpoint 20, guidance_weight 1" in text
    )  # the last section's list
    assert f"not run: not finished; {COMMAND} --until score goes on" in text
    assert "No choice was recorded for this phase" in text


def scores_of(run: RunDir, *overrides: str) -> str:
    """Returns the section of the image quality and the list at the end, of a study with a further encoder."""
    found = report.gather_results(run, experiment.load(study.TINY, [OTHER, *overrides]))
    made = reports.bare(score=found["score"], further_scores=found["further_scores"])
    wanted = [section for section in build(made) if section.slug in ("scores", "provenance")]
    return words(markdown.render(made, wanted).split('id="scores"')[1])


def test_scores_that_are_missing_have_a_line_each_beside_those_there_are(run: RunDir) -> None:
    settings = experiment.load(study.TINY, [OTHER])
    names = [(args["set"], args["resolution"], args["encoder"]) for args in score_args(settings)]
    row = {**reports.score_rows()[2], "resolution": 4}
    finish(run, "score", names.index(("real train", 4, "")), {"rows": [row]})
    text = scores_of(run)
    main, other = text.split("By another encoder: other")
    # of 3 sets at 2 resolutions one is measured; by the further encoder none
    assert [line.count("not run") for line in lines_of(main)] == [0, 1, 1, 1, 1, 1]
    assert [line.count("not run") for line in lines_of(other.split("Lines that were planned")[0])] == 6 * [1]
    assert text.count(f"Not run: not finished; {COMMAND} --until score goes on") == 2  # once for each table
    assert "set generated, resolution 4, encoder classifier |" in text
    assert "set real val, resolution 8, encoder other |" in text
    assert "encoder |" not in text and "encoder ," not in text


def test_missing_scores_are_called_by_their_encoder_once_it_is_there(run: RunDir) -> None:
    finish(run, "encoder", 0, {"name": "resnet on real digits"})
    finish(run, "encoder", 1, {"name": "dinov2-vitl14"})
    settings = experiment.load(study.TINY, [OTHER])
    part = [args["encoder"] for args in score_args(settings)].index("other")
    finish(run, "score", part, {"rows": [{**reports.score_rows()[0], "encoder": "dinov2-vitl14"}]})
    text = scores_of(run)  # the study's own encoder has no score yet, and does not hide the other's
    assert "Not run: not finished" in text
    assert text.count("By another encoder:") == 1 and "By another encoder: dinov2-vitl14" in text
    assert "5.21" in text
    assert "encoder resnet on real digits |" in text


def lines_of(text: str) -> list[str]:
    """Returns the lines of the table of all measured sets."""
    table = [line for line in text.splitlines() if line.startswith("| ")]
    return [
        line for line in table if line.count("|") in (13, 14) and line.split("|")[2].strip() in ("4", "8")
    ]


def test_a_chosen_point_is_marked_as_soon_as_its_phase_has_chosen(run: RunDir) -> None:
    settings = run.experiment()
    rows = [{**row, "phase": "base", "model": "base4"} for row in reports.sweep_rows()[:4]]
    for part, row in enumerate(rows):
        finish(run, "measure-base", part, row)
    finish(run, "choose-base", 0, {"part": 2, "pareto": [0, 2]})
    found = [row for row in so_far.sweep_rows(run, settings) if "not_run" not in row]
    assert [row["chosen"] for row in found] == [False, False, True, False]
    assert [row["pareto"] for row in found] == [True, False, True, False]


def test_the_command_line_asks_for_it_and_names_what_is_missing(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["report", "tiny", "--runs", str(run.path.parent)]
    assert main(line) == 2
    assert "or report --so-far" in capsys.readouterr().err
    done = study.synthaug(*line, "--so-far")
    assert done.returncode == 0, done.stderr
    assert (run.report / "report.html").exists()
    assert not run.is_done("report", 0)  # the whole one is still to come
    shutil.rmtree(run.path / "collect-0")
    assert main([*line, "--so-far"]) == 2
    assert "not finished (collect); run the study first." in capsys.readouterr().err


def test_the_reasons_of_a_whole_stage_stay_one_sentence() -> None:
    lost = [{**row, "top1": None, "not_run": f"part {i}"} for i, row in enumerate(reports.classify_rows())]
    text = reports.report(classify=lost).why_not("classify", "", "none")
    assert text == f"part 0; part 1; part 2; and {len(lost) - 3} more reasons"
