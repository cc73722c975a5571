"""Tables 1 to 4 and Figures 1 to 6 in the paper's form: its number, ours and the difference in one row."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from synthaug.experiment import Prompts, load
from synthaug.manifest import ClassEntry, ClassTable
from synthaug.reporting import (
    cas,
    cas_figure,
    classes,
    commands,
    comparable,
    dataset,
    drawing,
    guidance_figure,
    mixes,
    noise_figure,
    paper,
    scaling,
    scaling_figure,
    scores,
)
from synthaug.reporting.document import Section, Table
from synthaug.reporting.write import build
from synthaug.stages.report import class_names, results_text
from tests.reports import bare, image_facts, imagenet, report

ROOT = pathlib.Path(__file__).parent.parent
MINUS = "\N{MINUS SIGN}"
FIGURES = {
    1: cas_figure.figure,
    3: guidance_figure.figure,
    4: noise_figure.figure,
    5: classes.figure,
    6: scaling_figure.figure,
}
OWN_LINES = {  # columns of "paper", "ours", "diff." by table
    1: ((2, 3, 4), (5, 6, 7), (8, 9, 10)),
    2: ((2, 3, 4), (5, 6, 7)),
    3: ((3, 4, 5), (6, 7, 8), (9, 10, 11)),
    4: ((4, 5, 6),),
}


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """What results.json holds, after it was written and read: nothing else may be needed."""
    return json.loads(results_text(imagenet().results))


@pytest.fixture(scope="module")
def toy() -> dict[str, Any]:
    return json.loads(results_text(report().results))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """PNGs take most of the time, and no test here looks at them."""
    monkeypatch.setattr(drawing, "to_png", lambda figure: b"")


def made(results: dict[str, Any]) -> dict[int, tuple[Table, list[tuple[str, str]]]]:
    return {
        1: scores.table_1(results),
        2: cas.table_2(results),
        3: mixes.table_3(results),
        4: scaling.table_4(results),
    }


def texts(table: Table) -> Iterator[list[str]]:
    """Yields the cells of every line, with the group it stands in before them."""
    group = ""
    for line in table.lines:
        if line.kind == "group":
            group = line.cells[0].text
        else:
            yield [group, *(cell.text for cell in line.cells)]


def number(text: str) -> float:
    return float(text.split(" ±")[0].replace(MINUS, "-").replace(",", "").replace("±", ""))


# --------------------------------------------------------------------------------------------- tables


def test_the_paper_s_tables_keep_its_numbers(results: dict[str, Any]) -> None:
    assert {n: table.number for n, (table, _) in made(results).items()} == {1: 1, 2: 2, 3: 3, 4: 4}


def test_the_difference_is_ours_minus_the_paper_s(results: dict[str, Any]) -> None:
    count = 0
    for n, (table, _) in made(results).items():
        for row in texts(table):
            for columns in OWN_LINES[n]:
                known, ours, gap = (row[1 + c] for c in columns)
                if gap:
                    count += 1
                    assert number(gap) == pytest.approx(number(ours) - number(known), abs=0.0101), row
    assert count >= 60


def test_table_1_sets_ours_beside_the_paper_s_and_every_comparison_model(results: dict[str, Any]) -> None:
    rows = list(texts(scores.table_1(results)[0]))
    ours = {(row[1], row[2]): row for row in rows if row[0] == "this study"}
    assert ours["generated (fine-tuned Imagen)", "64"][3:6] == ["1.21", "1.40", "+0.19"]
    assert ours["generated (fine-tuned Imagen)", "256"][9:] == [
        "239.18 ± 1.14",
        "231.00 ± 0.13",
        f"{MINUS}8.18",
    ]
    assert ours["biggan (BigGAN-deep)", "256"][3:6] == ["6.90", "7.10", "+0.20"]
    assert ours["edm2", "256"][3:6] == ["", "1.80", ""]
    published = {(row[1], row[2]) for row in rows if row[0] != "this study"}
    left = {(r.model, str(r.resolution)) for r in paper.TABLE_1} - {(paper.OWN, "64"), (paper.OWN, "256")}
    assert published == left - {("BigGAN-deep", "256")}
    assert len(paper.TABLE_1) == 20


def test_a_fid_of_another_encoder_has_no_difference() -> None:
    rows = [{**row, "encoder": "resnet on real images"} for row in imagenet().results["score"]]
    table, _ = scores.table_1(imagenet(score=rows).results)
    assert {row[i] for row in texts(table) for i in (5, 8, 11)} == {""}
    assert "no difference is written" in table.caption
    assert [row[3] for row in texts(table) if row[1].startswith("generated (")] == ["1.21", "1.76"]


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({"resize": "area 256->64, 8 bit; TF1 bilinear without antialiasing 64->299, f32"}, (5, 8, 11)),
        ({"resize": "bicubic with antialiasing 256->224, f32"}, (5, 8, 11)),
        ({"encoder": "dinov2-vitl14"}, (5, 8, 11)),
        ({"n": 50_000}, (5, 8, 11)),
        ({"n": 1_900_000}, (5, 8, 11)),
        ({"n_reference": 10_000}, (5, 8)),  # the Inception Score has no reference
        ({"n_reference": None}, (5, 8)),  # a file that does not tell
        ({"n": 2 * 1_281_167}, ()),
        ({}, ()),
    ],
)
def test_a_difference_to_table_1_asks_for_the_protocol_of_the_paper(
    change: dict[str, Any], lost: tuple[int, ...]
) -> None:
    rows = [{**row, **change} for row in imagenet().results["score"]]
    table, _ = scores.table_1(imagenet(score=rows).results)
    (row,) = [row for row in texts(table) if row[1:3] == ["generated (fine-tuned Imagen)", "64"]]
    assert [bool(row[i]) for i in (5, 8, 11)] == [i not in lost for i in (5, 8, 11)]
    assert "" not in row[3:5]  # both numbers stand there all the same
    if "encoder" not in change:
        for words in ("Inception of 2015-12-05", "as many images as the train split", "50,000 validation"):
            assert words in table.caption


def test_table_1_judges_each_reference_by_itself() -> None:
    rows = imagenet().results["score"]
    rows = [{**row, "n_reference": 10_000} if row["reference"] == "val" else row for row in rows]
    table, _ = scores.table_1(imagenet(score=rows).results)
    (row,) = [row for row in texts(table) if row[1:3] == ["generated (fine-tuned Imagen)", "64"]]
    assert [bool(row[i]) for i in (5, 8, 11)] == [True, False, True]


def test_table_2_has_our_cas_beside_the_paper_s(results: dict[str, Any]) -> None:
    table, lost = cas.table_2(results)
    rows = {row[1]: row for row in texts(table)}
    assert rows["real images"][3:6] == ["73.09", "73.14 ± 0.04", "+0.05"]
    own = rows["our 256 px set, 1 copy (fine-tuned Imagen)"]
    assert (own[3], own[6], own[9]) == ("64.96", "85.66", f"{MINUS}8.13")
    assert rows["biggan, 256 px, 1 copy (BigGAN-deep)"][3] == "42.65"
    assert rows["edm2, 256 px, 1 copy"][3] == ""
    assert rows["fine-tuned Imagen, 1024 px"][3:6] == ["69.24", "not run", ""]
    assert rows["CDM, 256 px"][3:6] == ["63.02", "", ""]
    assert lost == [
        (
            "fine-tuned Imagen, 1024 px",
            "synthaug run jobs/cas.yaml name=cas-1024 classify.sets=[imagen-1024] classify.mixes=[generated]",
        )
    ]


def test_table_3_has_every_row_of_the_paper(results: dict[str, Any]) -> None:
    table, lost = mixes.table_3(results)
    rows = [row for row in texts(table) if row[0].startswith("with our 1024 px set")]
    assert [row[1] for row in rows] == [r.name for r in paper.TABLE_3[:-1]]
    for row, published in zip(rows, paper.TABLE_3, strict=False):
        assert [number(row[i]) for i in (4, 7, 10)] == [published.real, published.generated, published.mixed]
        assert number(row[13]) == published.delta
        assert all(row[i] for i in (6, 9, 12, 14, 15))
    left = [row for row in texts(table) if "not run here" in row[0]]
    assert [row[1:8] for row in left] == [["DeiT-L", "224", "307", "82.22", "not run", "", "74.60"]]
    assert lost == [("DeiT-L, 224 px", "synthaug run jobs/augment.yaml")]


def test_another_set_than_the_paper_s_has_no_difference_but_of_real_images(results: dict[str, Any]) -> None:
    row = next(row for row in texts(mixes.table_3(results)[0]) if row[0].startswith("with our 256 px set"))
    assert row[4:7] == ["76.39", row[5], row[6]]
    assert row[6]
    assert (row[7], row[9], row[10], row[12]) == ("69.24", "", "78.17", "")


def test_table_4_has_copies_budgets_and_deltas(results: dict[str, Any]) -> None:
    table, lost = scaling.table_4(results)
    rows = {(row[0], row[1]): row for row in texts(table)}
    for size in paper.TABLE_4:
        row = rows["resnet50, our 256 px set", str(size.copies)]
        assert number(row[5]) == size.top1_256.mean
        assert row[2] == f"{1_281_167 * (1 + size.copies):,}"
        assert row[3] == "112,590"
        assert number(row[4]) == pytest.approx(90 / (1 + size.copies), abs=0.06)
    assert [rows["resnet50, our 256 px set", c][8] for c in "123"] == ["+1.22", "+0.77", "+0.13"]
    digitised = "Azizi et al. 2023, ResNet-50, 64 px set (Fig. 6, digitised)"
    assert rows[digitised, "9"][5:7] == ["72.98", "not run"]
    assert ("resnet50, 1024 px set, 9 copies", commands.table_4(1024, 9)) in lost
    assert len(lost) == 8 + 10


def test_a_study_of_other_images_has_all_the_papers_rows_and_no_difference(toy: dict[str, Any]) -> None:
    tables = made(toy)
    for n, (table, lost) in tables.items():
        assert {row[1 + columns[2]] for row in texts(table) for columns in OWN_LINES[n]} == {""}, n
        assert "no difference is written" in table.caption
        assert lost, n
    assert sum(row[0].startswith("Azizi") for row in texts(tables[1][0])) == 20
    assert sum(row[0].startswith("Azizi") for row in texts(tables[2][0])) == 6
    assert sum(row[0].startswith("Azizi") for row in texts(tables[3][0])) == 12
    assert sum(row[0].startswith("Azizi") for row in texts(tables[4][0])) == 30


def test_every_delta_has_its_test(results: dict[str, Any]) -> None:
    for n, ours, p in ((2, 10, 11), (3, 14, 15), (4, 9, 10)):
        for row in texts(made(results)[n][0]):
            assert bool(re.match(f"[+±{MINUS}]", row[ours])) == (row[p] not in ("",)), row


@pytest.mark.usefixtures("fast")
def test_every_table_states_seeds_budget_and_what_p_can_show() -> None:
    sections = {section.slug: section for section in build(imagenet())}
    for slug in ("cas", "mixes", "scaling"):
        protocol = next(b for b in sections[slug].blocks if isinstance(b, Table)).protocol
        for words in (
            "seed 0, 1, 2",
            "training steps 112,590",
            "passes over the training set 90",
            "held fixed steps",
        ):
            assert words in protocol, (slug, words)
        assert "3 seeds cannot give p below 0.25" in protocol


# ------------------------------------------------------------------------- what may be compared


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("BigGAN-deep-256", "BigGAN-deep"), ("vq_vae_2", "VQ-VAE-2"), ("adm", "ADM"),
        ("ADM-upsampled", "ADM + upsampling"), ("dit-xl-2", "DiT-XL/2"), ("iddpm", "Improved DDPM"),
        ("rin-noise", "RIN + noise schedule"), ("edm2", ""),
        ("generated-256", paper.OWN), ("generated", paper.OWN), ("training-set", ""),
    ],
)  # fmt: skip
def test_a_set_made_elsewhere_is_known_by_its_name(results: dict[str, Any], name: str, model: str) -> None:
    assert comparable.generator(results, name) == model


def test_a_finished_run_of_ours_counts_as_ours() -> None:
    sets = [
        {"name": name, "set": name, "resolution": 256, "source": "manifest", "licence": "", "tuned": False}
        for name in ("imagen-256", "mine", "imagenet-like")
    ]
    found = imagenet(sets=sets).results
    assert comparable.generator(found, "imagen-256") == paper.OWN
    assert comparable.generator(found, "mine") == comparable.generator(found, "imagenet-like") == ""
    assert comparable.table_3_set(found, "imagen-256", 256, 1) is False
    assert comparable.table_3_set(found, "imagen-256", 1024, 1) is True
    assert comparable.table_3_set(found, "imagen-256", 1024, 3) is False


def test_an_untuned_cascade_and_half_of_imagenet_are_not_the_paper_s() -> None:
    report = imagenet()
    sets = [{**one, "tuned": False} for one in report.results["sets"]]
    assert comparable.generator({**report.results, "sets": sets}, "generated-256") == ""
    half = {**report.results, "data": {**report.results["data"], "num_train": 640_000}}
    assert comparable.same_data(report.results) and not comparable.same_data(half)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "resnet101"},
        {"resolution": 64},
        {"copies": 2},
        {"set_resolution": 64},
        {"mix": "real+generated"},
    ],
)
def test_what_differs_from_the_cas_protocol_is_not_compared(
    results: dict[str, Any], change: dict[str, Any]
) -> None:
    row = next(r for r in results["classify"] if r["set"] == "generated-256" and r["mix"] == "generated")
    assert comparable.table_2(results, row) == paper.TABLE_2[4]
    assert comparable.table_2(results, {**row, **change}) is None


def test_another_number_of_classes_compares_with_nothing(results: dict[str, Any]) -> None:
    other = {**results, "data": {**results["data"], "num_classes": 100}}
    assert comparable.table_1(other, "generated", 64) is None
    row = next(row for row in other["classify"] if row["model"] == "resnet50")
    assert comparable.table_3(other, row) is None
    assert comparable.table_3(results, row) == paper.TABLE_3[0]
    assert comparable.table_3(results, {**row, "resolution": 64}) is None  # prepared, not untouched images
    assert comparable.table_4(other, row, "generated-256", 256) == []
    assert comparable.table_4(results, row, "generated-256", 256) == [r.top1_256 for r in paper.TABLE_4]
    assert comparable.table_4(results, row, "generated-64", 64) == []  # its real images are no 64 px images
    small = {**row, "resolution": 64}
    assert [v.mean for v in comparable.table_4(results, small, "generated-64", 64)] == [
        *paper.DIGITISED_FIGURE_6
    ]
    assert all(comparable.table_2(other, row) is None for row in other["classify"])


# -------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize("n", FIGURES)
@pytest.mark.usefixtures("fast")
def test_a_figure_is_drawn_from_results_json_alone(
    results: dict[str, Any], toy: dict[str, Any], n: int
) -> None:
    for found in (results, toy):
        figure = FIGURES[n](found)
        assert figure.number == n
        assert f"the paper's Fig. {n}" in figure.caption


@pytest.mark.parametrize("n", [1, 3, 4, 6])
@pytest.mark.usefixtures("fast")
def test_the_papers_curve_is_drawn_only_beside_comparable_numbers(
    results: dict[str, Any], toy: dict[str, Any], n: int
) -> None:
    said = re.compile(">[^<]*paper")
    assert said.search(FIGURES[n](results).svg)
    assert not said.search(FIGURES[n](toy).svg)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    "change",
    [
        {"n": 10_000},
        {"n_reference": 10_000, "cas_network": "resnet"},
        {"resize": "none", "cas_network": "vit_s16"},
    ],
)
def test_the_paper_s_curves_ask_for_its_numbers_of_images_and_its_networks(change: dict[str, Any]) -> None:
    found = imagenet(sweep=[{**row, **change} for row in imagenet().results["sweep"]]).results
    for figure in (guidance_figure.figure(found), noise_figure.figure(found)):
        assert not re.search(">[^<]*paper", figure.svg)
        assert "Grey" not in figure.caption


def test_each_panel_of_figure_3_is_judged_by_itself() -> None:
    results = imagenet().results
    own = {row["phase"]: row for row in results["sweep"]}
    base, close, large = own["base"], own["guidance"], own["enlarge"]
    panels = guidance_figure._as_in_the_paper
    assert panels(results, base, close, close) == (True, True, True)
    assert panels(results, {**base, "n": 20_000}, close, close) == (False, True, True)
    assert panels(results, base, {**close, "reference": "val"}, close) == (True, False, True)
    assert panels(results, base, close, {**close, "cas_network": "vit"}) == (True, True, False)
    assert panels(results, base, close, {**close, "n": 50_000}) == (True, True, False)
    assert panels(results, large, close, close) == (False, False, False)  # of another side


@pytest.mark.usefixtures("fast")
def test_figure_1_names_sets_models_and_gains(results: dict[str, Any]) -> None:
    svg = cas_figure.figure(results).svg
    for words in (
        "our 256 px set",
        "biggan, 256 px",
        "edm2, 256 px",
        "real 73.14",
        "resnet152",
        "DeiT-L",
        "+0.83",
    ):
        assert words in svg, words
    assert "resnetrs" not in svg  # the paper's lower panel has six classifiers


@pytest.mark.usefixtures("fast")
def test_figure_3_has_three_panels_and_its_labels(results: dict[str, Any]) -> None:
    svg = guidance_figure.figure(results).svg
    for words in (
        "FID against guidance",
        "FID against Inception Score",
        "CAS against guidance",
        "1.75",
        "top-5",
        "0.4",
    ):
        assert words in svg, words


def test_figure_3_spans_the_points_that_share_a_weight() -> None:
    rows = [{"guidance_weight": 1.0, "cas": c} for c in (0.3, 0.5)] + [{"guidance_weight": 2.0, "cas": None}]
    assert guidance_figure._spans(rows, "cas") == [(1.0, 30.0, 40.0, 50.0)]


@pytest.mark.usefixtures("fast")
def test_figure_5_has_a_panel_per_generated_set(results: dict[str, Any]) -> None:
    svg = classes.figure(results).svg
    for name in ("our 256 px set", "biggan, 256 px", "edm2, 256 px"):
        assert f"resnet50-cas, {name}, 1 copy" in svg
    pairs = classes.pairs_of(results)
    assert [len(pair.real) for pair in pairs] == [1000] * 3


@pytest.mark.usefixtures("fast")
def test_figure_6_has_arrows_at_every_third_copy(results: dict[str, Any]) -> None:
    svg = scaling_figure.figure(results).svg
    points = dict(
        scaling_figure.curve(
            [r for r in results["classify"] if r["mix"] != "generated"], "resnet50", "generated-256"
        )
    )
    for copies in (3, 6, 9):
        gain = 100 * ((points[copies].mean or 0) - (points[0].mean or 0))
        assert f"{'+' if gain > 0 else MINUS}{abs(gain):.2f}" in svg


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("kind", ["sweep", "score", "classify"])
def test_a_study_without_a_stage_still_makes_a_report(kind: str) -> None:
    changes: dict[str, Any] = {kind: []} | ({"per_class": []} if kind == "classify" else {})
    lost = {"sweep": {"sweep"}, "score": {"scores"}, "classify": {"cas", "mixes", "scaling", "classes"}}[kind]
    sections = build(imagenet(**changes))
    assert lost <= {section.slug for section in sections if section.missing}
    for section in sections:
        if section.slug in lost:
            assert any(getattr(b, "text", "").startswith("synthaug run jobs/") for b in section.blocks)


# -------------------------------------------------------------------------------- commands and images


def every_command() -> list[str]:
    sections = [
        build(bare()),
        build(bare(classify=report().results["classify"], score=report().results["score"])),
    ]
    found = {commands.CAS, commands.AUGMENT, commands.SCALING, commands.FEW_SHOT, *commands.CASCADE.values()}
    for section in [s for built in sections for s in built]:
        found |= set(commands_in(section))
    return sorted(found)


def commands_in(section: Section) -> Iterator[str]:
    for block in str(section).split("'"):
        if block.startswith("synthaug run jobs/"):
            yield block


@pytest.mark.usefixtures("fast")
def test_every_command_for_what_is_not_run_is_one_that_runs() -> None:
    found = [command for command in every_command() if "digits" not in command]
    assert len(found) > 25
    for command in found:
        _, _, job, *overrides = command.split()
        assert load(ROOT / job, overrides).name


def test_the_jobs_train_the_classifiers_that_the_tables_know() -> None:
    models = load(ROOT / commands.AUGMENT.split()[-1]).classify.models
    inputs = {name: model.view.eval_size or model.view.size for name, model in models.items()}
    assert inputs == {row.name: row.input for row in paper.TABLE_3}
    judge = load(ROOT / commands.CAS.split()[-1]).classify.models
    assert set(judge) <= set(comparable.CAS_NETWORKS)
    assert all(model.view.resolution == comparable.CAS_RESOLUTION for model in judge.values())
    assert "resnet50" in load(ROOT / commands.SCALING.split()[-1]).classify.models


def test_the_image_section_names_duplicates_and_files_left_out() -> None:
    facts = image_facts(1000, 1_281_167, 50_000)
    facts["duplicates"]["between"] = {
        "images": 2, "groups": 1, "other_class": 1, "first": [["a/<b>.JPEG", "val/c.JPEG"]],
    }  # fmt: skip
    facts["balance"]["train"]["below"] = ["n01440764"]
    facts |= {
        "corrupt": {"n1/x.JPEG": "cannot be decoded (truncated)"},
        "other_files": 3,
        "enlarged": {"64": 7},
    }
    text = str(dataset.section(bare(data=facts)))
    for words in (
        "in train and in validation: a/<b>.JPEG = val/c.JPEG", "train: n01440764", "n1/x.JPEG", "truncated",
        "7 images were smaller than 64 px", "3 files of the source are no images", "filter “area”", "pillow",
        "1 file could not be read",
    ):  # fmt: skip
        assert words in text, words


def test_results_json_has_a_line_per_row(results: dict[str, Any]) -> None:
    text = results_text(imagenet().results)
    assert json.loads(text) == results
    assert len(text.splitlines()) < 600


def test_equal_class_names_carry_their_keys() -> None:
    settings = load(ROOT / "jobs" / "digits.yaml", ["prompts.names={a: crane, b: crane, c: tench}"])
    table = ClassTable(tuple(ClassEntry(key, key, 9, 1) for key in "abcd"))
    assert class_names(settings, table) == ["crane (a)", "crane (b)", "tench", "d"]


def test_a_names_file_that_is_gone_leaves_the_names_of_the_source() -> None:
    settings = load(ROOT / "jobs" / "digits.yaml")
    settings = dataclasses.replace(settings, prompts=Prompts(names={"z": "not a class of the data"}))
    table = ClassTable(tuple(ClassEntry(key, key.upper(), 9, 1) for key in "ab"))
    assert class_names(settings, table) == ["A", "B"]


# ---------------------------------------------------------------------------------------------- paper


def test_the_papers_printed_deltas_follow_from_its_columns() -> None:
    for row in paper.TABLE_3:
        assert row.mixed - row.real == pytest.approx(row.delta, abs=0.011)
    zero = paper.TABLE_4[0]
    assert [round(r.top1_256.mean - zero.top1_256.mean, 2) for r in paper.TABLE_4[1:4]] == [1.22, 0.77, 0.13]
    assert [round(r.top1_1024.mean - zero.top1_1024.mean, 2) for r in paper.TABLE_4[-2:]] == [-2.25, -2.69]
    for copies, gain in paper.FIGURE_6_DELTAS.items():
        assert paper.DIGITISED_FIGURE_6[copies] - paper.DIGITISED_FIGURE_6[0] == pytest.approx(
            gain, abs=0.011
        )


def test_figures_and_tables_of_the_paper_agree_where_they_repeat_a_number() -> None:
    assert paper.DIGITISED_FIGURE_4[0.1][0][0] == paper.TABLE_1[-1].fid_train
    assert paper.DIGITISED_FIGURE_4[0.1][1][0] == paper.TABLE_2[-2].top1
    assert paper.TABLE_3[0].generated == paper.TABLE_2[-1].top1
    assert paper.TABLE_3[0].real == paper.TABLE_4[0].top1_1024.mean
    for curve in paper.DIGITISED_FIGURE_3_FID_50K.values():
        assert len(curve) == len(paper.GUIDANCE)
        assert min(curve) == curve[1]  # every log-variance is best at 1.25
