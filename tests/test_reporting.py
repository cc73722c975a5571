"""The report: what it says, in which words, and that both files say the same."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from synthaug.metrics.accuracy import paired_test
from synthaug.reporting import drawing, headline, numbers, scaling_figure, timing
from synthaug.reporting.data import Choice, SampleGrid, StageTime
from synthaug.reporting.document import Details, Section, Table
from synthaug.reporting.write import build, write
from tests.reports import (
    GAINS,
    MODELS,
    bare,
    class_row,
    classify_rows,
    digits,
    per_class,
    report,
    score_rows,
    stages,
    sweep_rows,
)

SECTIONS = (
    *("headline", "samples", "sweep", "scores", "cas", "mixes"),
    *("scaling", "few-shot", "classes", "data", "time", "provenance"),
)
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


class Page(HTMLParser):
    """Reads a page and remembers what it loads, names and says; raises if a tag is left open."""

    VOID = ("meta", "img", "br", "path", "use", "rect", "circle", "stop")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} carries the event handler {name}"
            if name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster", "background"):
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("report")
    write(report(), out)
    return out


@pytest.fixture(scope="module")
def html(written: pathlib.Path) -> str:
    return (written / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def markdown(written: pathlib.Path) -> str:
    return (written / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sections() -> list[Section]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "to_png", lambda figure: b"")  # takes most of the time, and no test looks
        return build(report())


def tables(sections: list[Section]) -> list[Table]:
    found: list[Table] = []
    stack: list[Any] = [b for s in sections for b in s.blocks]
    for block in stack:
        if isinstance(block, Details):
            stack.extend(block.blocks)
        if isinstance(block, Table):
            found.append(block)
    return found


def table_rows(text: str, section: str) -> list[list[str]]:
    """Returns the cells of every table line in one section of the Markdown file."""
    part = text.split(f'<a id="{section}"></a>')[1].split("<a id=")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def top1(rows: list[dict[str, Any]], model: str, mix: str, copies: int, shots: int = 0) -> list[float]:
    return [
        r["top1"]
        for r in rows
        if (r["model"], r["mix"], r["copies"], r["per_class"]) == (model, mix, copies, shots)
    ]


# ------------------------------------------------------------------------------------------- the files


def test_the_files_are_the_page_the_markdown_and_a_png_per_figure(written: pathlib.Path) -> None:
    names = sorted(str(p.relative_to(written)) for p in written.rglob("*") if p.is_file())
    pngs = ["classes", "gains", "guidance", "noise", "samples-8", "scaling", "sweep-augmentation"]
    pngs += ["sweep-guidance", "time"]
    assert names == [*(f"figures/{name}.png" for name in pngs), "report.html", "report.md"]
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in pngs)
    for name in pngs:
        with Image.open(written / "figures" / f"{name}.png") as image:
            assert image.width >= 1000, name


def test_the_page_loads_nothing(html: str) -> None:
    page = Page(html)
    assert page.loads
    assert not [load[:60] for load in page.loads if not load.startswith(("#", "data:image/png;base64,"))]
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    style = html.split("<style>")[1].split("</style>")[0]
    assert "@import" not in style
    assert "url(" not in style


def test_the_page_follows_light_and_dark_phone_and_print(html: str) -> None:
    for rule in ("(prefers-color-scheme: dark)", "(max-width: 42rem)", "@media print", "tabular-nums"):
        assert rule in html
    variables = {
        v for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) for v in re.findall(r"var\((--\w+)\)", svg)
    }
    light, dark = html.split("prefers-color-scheme: dark")[0], html.split("prefers-color-scheme: dark")[1]
    assert {"--ink", "--blue", "--vermillion"} <= variables
    for variable in variables:
        assert f"{variable}:" in light, variable
        assert f"{variable}:" in dark, variable


def test_ids_are_unique_and_every_link_has_its_target(html: str) -> None:
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    links = {load[1:] for load in page.loads if load.startswith("#")} | set(
        re.findall(r"url\(#([^)]*)\)", html)
    )
    assert links <= set(page.ids)


def test_every_section_is_in_both_files_in_order(html: str, markdown: str) -> None:
    assert tuple(re.findall(r'<section id="([^"]*)"', html)) == SECTIONS
    assert tuple(re.findall(r'^<a id="([^"]*)"></a>$', markdown, re.MULTILINE)) == SECTIONS


def test_every_image_of_the_markdown_exists(written: pathlib.Path, markdown: str) -> None:
    links = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", markdown)
    assert len(links) == 9
    assert all((written / link).is_file() for link in links)


def test_both_files_hold_every_cell_of_every_table(html: str, markdown: str, sections: list[Section]) -> None:
    page = Page(html).text
    assert len(tables(sections)) >= 18
    for table in tables(sections):
        for cell in [c for line in table.lines for c in line.cells]:
            text = " ".join(cell.text.split())
            assert text in page.replace("\N{NO-BREAK SPACE}", " "), text
            assert text.replace("<", "&lt;") in markdown, text


def test_equal_reports_give_equal_bytes(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
    files = write(report(), tmp_path)
    for file in files:
        assert file.read_bytes() == (written / file.relative_to(tmp_path)).read_bytes(), file.name


def test_writing_again_replaces_the_files(tmp_path: pathlib.Path) -> None:
    write(bare(title="old"), tmp_path)
    write(bare(title="new"), tmp_path)
    assert "<h1>new</h1>" in (tmp_path / "report.html").read_text()


def test_a_large_study_stays_below_three_megabytes(tmp_path: pathlib.Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 8, 96, 96, 3), dtype=np.uint8)
    grids = [
        SampleGrid(96, [str(k) for k in range(30)], {"generated": noise, "vanilla": noise, "real": noise}),
        SampleGrid(97, ["a"], {"generated": noise[:1]}),
    ]
    files = write(bare(samples=grids), tmp_path)
    assert files[0].stat().st_size < 3_000_000
    assert "of 30 classes, evenly spaced, at 96 px" in files[0].read_text()


# ------------------------------------------------------------------------------------------ the words


EVIL = '<script>alert(1)</script> & "x" | *b* \x07 $a$ \u72ac'


def test_text_from_data_is_never_markup(tmp_path: pathlib.Path) -> None:
    """Class names, phases, models, notes, settings: all of them, through tables, captions and drawings."""
    rows = [{**r, "phase": EVIL, "model": EVIL} for r in sweep_rows()[:6]]
    grid = digits()
    write(
        report(
            title=EVIL, description=EVIL, name=EVIL, notes=[EVIL], command=EVIL, settings_text=EVIL,
            class_names=[EVIL] * 10, sweep=rows, score=[{**r, "encoder": EVIL} for r in score_rows()],
            samples=[SampleGrid(8, [EVIL] * 10, {EVIL: grid.kinds["generated"], "real": grid.kinds["real"]})],
            classify=[{**r, "model": EVIL, "set": r["set"] and EVIL} for r in classify_rows()],
            sets=[{"name": EVIL, "set": EVIL, "resolution": 16, "source": "npz", "licence": EVIL}],
            per_class=[{**p, "model": EVIL} for p in per_class()],
            stages=[dataclasses.replace(s, stage=EVIL, buckets={EVIL: 1.0}) for s in stages()],
            choices=[Choice(EVIL, EVIL, EVIL, {EVIL: EVIL})],
        ),
        tmp_path,
    )  # fmt: skip
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert page.text.count("<script>alert(1)</script>") > 20
    assert "\x07" not in text
    outside = re.sub(
        r"^```.*?^```$", "", (tmp_path / "report.md").read_text(encoding="utf-8"), flags=re.DOTALL | re.M
    )
    assert "<script" not in outside
    assert "*b*" not in outside
    assert "$a$" not in outside


def test_a_bar_in_a_name_adds_no_column(tmp_path: pathlib.Path) -> None:
    write(bare(classify=[{**r, "model": "a|b"} for r in classify_rows()]), tmp_path)
    rows = table_rows((tmp_path / "report.md").read_text(), "mixes")
    assert {len(row) for row in rows if len(row) > 2} == {15}
    assert rows[3][0] == "a\\|b"


def test_missing_numbers_are_dashes(tmp_path: pathlib.Path) -> None:
    sweep = [
        {**r, "cas": None, "inception_score": math.nan, "inception_score_std": None} for r in sweep_rows()
    ]
    sweep[0]["fid"] = math.nan
    score = [{**r, "fid": None, "precision": math.nan} for r in score_rows()]
    classify = [{**r, "top1": None, "top5": math.nan} if r["seed"] == 0 else r for r in classify_rows()]
    classify += [
        {**r, "model": "diverged", "top1": math.nan, "top5": None} for r in classify if r["model"] == "vit"
    ]
    classes = [
        {**p, "accuracy": [None if k == 3 else v for k, v in enumerate(p["accuracy"])]} for p in per_class()
    ]
    lost = StageTime("sample", 1, 1, math.nan, math.nan, None, {"work": math.nan})
    made = report(sweep=sweep, score=score, classify=classify, per_class=classes, stages=[*stages(), lost])
    write(made, tmp_path)
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        words = Page(text).text if name.endswith("html") else text
        assert not re.search(r"\b(nan|none|inf)\b", words.replace("resize none", ""), re.IGNORECASE), name
        assert DASH in words
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "(5 of 6 seeds)" in markdown
    row = next(row for row in table_rows(markdown, "mixes") if row[0] == "diverged")
    assert [row[i] for i in (4, 7, 10, 13, 14)] == [DASH] * 5
    assert [row[3] for row in table_rows(markdown, "classes") if row[0] == "resnet"] == ["9"]


def test_what_was_not_run_is_said_with_its_reason(tmp_path: pathlib.Path) -> None:
    skipped = {
        **score_rows()[0],
        "set": "generated at 64 px",
        "fid": None,
        "not_run": "no weights <for> 64 px",
    }
    write(bare(score=[skipped]), tmp_path)
    text = Page((tmp_path / "report.html").read_text()).text
    for reason in (
        "Not run: the study has no sweep", "Not run: no weights <for> 64 px",
        "Not run: no images were handed", "Not run: no classifier was trained on generated images alone",
        "Not run: no stage recorded its time", "Not run: classify.subsets holds all real images only",
        "Not run: a curve needs at least two", "not run: no weights <for> 64 px",
        "No classifier was trained on both real and generated images", "The generated set was not scored",
    ):  # fmt: skip
        assert reason in text, reason
    coverage = table_rows((tmp_path / "report.md").read_text(), "provenance")
    assert [row[1] for row in coverage[2:12]] == ["not run"] * 10
    assert all(len(row[2]) > 20 for row in coverage[2:12])
    assert all(row[3].startswith("`synthaug run jobs/") for row in coverage[2:12])


def test_a_section_gives_the_reason_of_its_own_lines() -> None:
    lost = [{**r, "top1": None, "not_run": f"{r['mix']} ran out of time"} for r in classify_rows()]
    made = {section.slug: section.missing for section in build(bare(classify=lost))}
    assert made["cas"] == "generated ran out of time"
    assert made["mixes"] == "real+generated ran out of time"


def test_the_coverage_table_tells_run_from_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "to_png", lambda figure: b"")
    one_phase = report(sweep=[r for r in sweep_rows() if r["phase"] == "guidance"])
    made = next(t for t in tables([build(one_phase)[-1]]) if t.columns[0].name == "result of the paper")
    status = {line.cells[0].text: line.cells[1].text for line in made.lines}
    assert status.pop("Fig. 4: noise augmentation of super-resolution") == "not run"
    assert set(status.values()) == {"run"}


# ---------------------------------------------------------------------------------------- the numbers


def spread_of(values: list[float]) -> str:
    return f"{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f}"


def delta_of(after: list[float], before: list[float]) -> str:
    delta = np.subtract(after, before)
    return (
        f"{'+' if delta.mean() > 0 else MINUS}{abs(100 * delta.mean()):.2f} ± {100 * delta.std(ddof=1):.2f}"
    )


def test_table_3_in_the_markdown_is_that_of_the_results(markdown: str) -> None:
    rows = classify_rows()
    shown = {row[0]: row for row in table_rows(markdown, "mixes") if row[1] == "16"}
    assert list(shown) == list(MODELS)
    for model, row in shown.items():
        real, both = top1(rows, model, "real", 0), top1(rows, model, "real+generated", 1)
        assert row[4] == spread_of(real)
        assert row[7] == spread_of(top1(rows, model, "generated", 1))
        assert row[10] == spread_of(both)
        assert row[13].strip("*") == delta_of(both, real)
        assert row[14] == f"{paired_test(both, real):.3f}"
        assert [row[i] for i in (3, 5, 6, 8, 9, 11, 12)] == [""] * 7  # nothing of the paper's compares


def test_table_4_in_the_markdown_is_that_of_the_results(markdown: str) -> None:
    rows, model, shown = classify_rows(), "", {}
    for row in table_rows(markdown, "scaling"):
        model = row[0].strip("*").split(",")[0] if row[0].startswith("**") else model
        shown[model, row[0]] = row
    for name in MODELS:
        real = top1(rows, name, "real", 0)
        assert shown[name, "0"][5] == spread_of(real)
        for copies in GAINS:
            both = top1(rows, name, "real+generated", copies)
            row = shown[name, str(copies)]
            assert row[1:4] == [f"{1437 * (1 + copies):,}", "400", f"{400 * 128 / 1437 / (1 + copies):,.1f}"]
            assert row[5] == spread_of(both)
            assert row[8].strip("*") == delta_of(both, real)
            assert row[9] == f"{paired_test(both, real):.3f}"


def test_table_2_in_the_markdown_is_that_of_the_results(markdown: str) -> None:
    rows = table_rows(markdown, "cas")
    generated = [row for row in rows if row[0] == "our 16 px set, 1 copy"]
    for row, model in zip(generated, MODELS, strict=True):
        found = top1(classify_rows(), model, "generated", 1)
        assert row[3] == spread_of(found)
        assert row[9].startswith(f"**{MINUS}")
        assert row[10] == f"{paired_test(found, top1(classify_rows(), model, 'real', 0)):.3f}"
    expected = ["", "69.24", "not run", "", "88.10", "not run", "", f"{MINUS}3.85", "", ""]
    assert next(row[1:] for row in rows if row[0] == "fine-tuned Imagen, 1024 px") == expected


def test_scores_in_the_markdown_are_those_of_the_results(markdown: str) -> None:
    rows = [row for row in table_rows(markdown, "scores") if len(row) == 12 and row[1] == "16"]
    expected = [
        [r["set"], "16", r["reference"], f"{r['n']:,}", f"{r['n_reference']:,}", f"{r['fid']:.2f}",
         f"{r['inception_score']:.2f} ± 0.13", "0.0021 ± 0.0004", f"{r['precision']:.3f}",
         f"{r['recall']:.3f}", "0.980", "0.950"]
        for r in score_rows()
    ]  # fmt: skip
    assert [[c.strip("*") for c in row] for row in rows] == expected
    ours = next(row for row in table_rows(markdown, "scores") if row[0] == "**generated**")
    assert [ours[i] for i in (3, 6, 9)] == ["5.21", "6.48", "8.01 ± 0.13"]
    protocol = next(
        line for line in markdown.split('id="scores"')[1].splitlines() if line.startswith("Protocol")
    )
    for part in (
        "n 1,437, 360",
        "train, val",
        "resnet on real digits",
        "9f31c04b7a55",
        "resize none",
        "IS splits 10",
        "seed 0",
    ):
        assert part in protocol


def test_sizes_further_encoders_and_notes_are_shown_apart(tmp_path: pathlib.Path) -> None:
    sizes = {"fid_sizes": {"300": 9.5, "600": 7.25}, "fid_infinity": 4.125, "sfid": 12.5}
    rows = [{**row, **sizes, "notes": ["the reference keeps 50 images"]} for row in score_rows()]
    other = [{**row, "encoder": "dinov2-vitl14", "fid": 333.0, "inception_score": None,
              "inception_score_std": None, "notes": [EVIL]} for row in score_rows()]  # fmt: skip
    write(bare(score=rows, further_scores=other), tmp_path)
    text = (tmp_path / "report.md").read_text()
    table = table_rows(text, "scores")
    assert ["generated", "16", "train", "9.50", "7.25", "5.21", "4.12"] in table
    assert [row[6] for row in table if len(row) == 13 and row[1] == "16"] == 4 * ["12.50"]
    further = [row[5:7] for row in table if len(row) == 12 and row[0] == "**generated**"]
    assert further == 2 * [["333.00", numbers.NONE]]
    assert "By another encoder: dinov2-vitl14" in text
    assert text.count("the reference keeps 50 images") == 1  # said once, not once per row
    assert EVIL not in (tmp_path / "report.html").read_text()
    # the headline and Table 1 speak of the study's encoder alone
    assert not any("333" in cell for row in table_rows(text, "headline") for cell in row)


def test_the_sweep_table_marks_the_chosen_point(markdown: str) -> None:
    marked = [row for row in table_rows(markdown, "sweep") if "chosen" in row[-1]]
    chosen = [r for r in sweep_rows() if r["chosen"]]
    assert [row[-4] for row in marked] == [f"{r['fid']:.2f}" for r in chosen]
    assert "Rule: lowest fid. Chosen: guidance_weight = 1.25, logvar_mix = 0 (FID 5.10" in markdown


def test_a_long_sweep_folds_away_but_the_chosen_point_stays(tmp_path: pathlib.Path) -> None:
    rows = [r for r in sweep_rows() if r["phase"] == "guidance"]
    more = [
        {**r, "num_sampling_steps": s, "chosen": r["chosen"] and s == 64} for r in rows for s in (32, 64, 128)
    ]
    write(bare(sweep=more), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "<summary>All 45 points of phase guidance</summary>" in text
    before = text.split("<summary>All 45")[0]
    assert sum("chosen" in row[-1] for row in table_rows(before, "sweep")) == 1


@pytest.mark.parametrize(
    ("gain", "sign", "tone"), [(0.01, "+", "up"), (-0.01, MINUS, "down"), (0.0, "±", "muted")]
)
def test_a_delta_shows_its_sign_without_colour(gain: float, sign: str, tone: str) -> None:
    before = [{"seed": s, "top1": 0.9} for s in range(6)]
    cell = numbers.delta_cell(
        numbers.paired(before, [{"seed": s, "top1": 0.9 + gain} for s in range(6)], "top1")
    )
    assert cell.text.startswith(f"{sign}{100 * abs(gain):.2f}")
    assert cell.tone.split()[0] == tone


def test_deltas_pair_equal_seeds_only() -> None:
    before = [{"seed": s, "top1": 0.5 + s / 10} for s in range(4)]
    after = [{"seed": s, "top1": 0.6 + s / 10} for s in (3, 1, 7)]
    delta = numbers.paired(before, after, "top1")
    assert delta.difference.seeds == 2
    assert delta.difference.mean == pytest.approx(0.1)


def test_one_seed_has_no_deviation_and_no_p(tmp_path: pathlib.Path) -> None:
    rows = [r for r in classify_rows() if r["seed"] == 0]
    write(bare(classify=rows), tmp_path)
    found = [row for row in table_rows((tmp_path / "report.md").read_text(), "mixes") if row[0] == "resnet"]
    assert all("±" not in cell for row in found for cell in row)
    assert {row[14] for row in found} == {DASH}
    assert "too few for a test" in " ".join(headline.sentences(bare(classify=rows)))


def test_few_seeds_are_said_to_be_few() -> None:
    rows = [r for r in classify_rows() if r["seed"] < 3]
    made = tables(build(bare(classify=rows)))
    assert any("3 seeds cannot give p below 0.25, six are needed" in t.protocol for t in made)
    words = headline.sentences(bare(classify=rows))[0]
    assert "worse by 6." in words
    assert "all agree, but they are too few to be sure" in words


# -------------------------------------------------------------------------------------- the headline


def test_the_headline_says_better_when_it_is_better() -> None:
    words = headline.sentences(bare(classify=classify_rows({1: 0.02})))
    assert "helps" in words[1]
    assert re.search(r"better by [12]\.\d\d points", words[1])
    assert "worse" not in words[1]


def test_the_headline_says_worse_when_it_is_worse() -> None:
    words = headline.sentences(bare(classify=classify_rows({1: -0.02, 2: -0.04})))
    assert "Adding generated images to the real ones made results worse" in words[1]
    assert re.search(r"worse by [12]\.\d\d points", words[1])
    assert "0 are better than real images alone and 6 are worse" in words[2]
    assert "The generated set is worse by" in words[0]
    assert "helps" not in " ".join(words)


def test_the_headline_does_not_say_helps_of_a_gain_within_the_scatter() -> None:
    rows = [r for r in classify_rows({1: 0.0}) if r["model"] == "resnet"]
    for row, shift in zip(
        [r for r in rows if r["mix"] == "real+generated"], (3, -2, 2, -2, 1, -1), strict=False
    ):
        real = next(
            r
            for r in rows
            if r["mix"] == "real" and r["seed"] == row["seed"] and r["subset"] == row["subset"]
        )
        row["top1"] = real["top1"] + shift / 1000
    words = headline.sentences(bare(classify=rows))[1]
    assert "may help" in words
    assert "the scatter between seeds could explain it" in words


def test_the_headline_says_so_if_generated_images_alone_win() -> None:
    rows = [{**r, "top1": 0.99} if r["mix"] == "generated" else r for r in classify_rows()]
    words = headline.sentences(bare(classify=rows))[0]
    assert re.search(r"The generated set is better by 2\.\d\d points", words)


def test_the_headline_sets_fid_beside_that_of_real_images() -> None:
    words = headline.sentences(bare(score=score_rows()))[-1]
    assert "FID 6.48 against the val split (n = 1,437)" in words
    assert "score 1.34 there (n = 1,437), not 0" in words


def test_toy_size_is_remarked_unless_the_encoder_is_inception() -> None:
    assert "not Inception" in headline.remark(bare(score=score_rows()))
    inception = [{**r, "encoder": "inception-2015-12-05"} for r in score_rows()]
    assert "Toy size" not in headline.remark(bare(score=inception))


# ---------------------------------------------------------------------------------- figures and time


def test_the_scaling_curve_begins_with_real_images() -> None:
    rows = [r for r in classify_rows() if r["subset"] == "all"]
    points = scaling_figure.curve(rows, "vit", "generated-16")
    assert [c for c, _ in points] == [0, 1, 2, 4]
    assert points[0][1].mean == pytest.approx(np.mean(top1(rows, "vit", "real", 0)))
    assert points[3][1].deviation == pytest.approx(np.std(top1(rows, "vit", "real+generated", 4), ddof=1))


def test_class_statistics_count_better_worse_and_never() -> None:
    real, fake = np.array([0.9, 0.5, 0.0, 0.7, np.nan]), np.array([0.8, 0.6, 0.0, 0.0, 1.0])
    made = bare(
        per_class=[
            class_row("m", mix, "generated-16", 0, [None if math.isnan(v) else v for v in values])
            for mix, values in (("real", real), ("generated", fake))
        ],
        class_names=list("abcde"),
    )
    statistics = next(t for t in tables(build(made)) if t.columns[-1].name == "mean Δ, points")
    assert [c.text for c in statistics.lines[0].cells] == [
        "m",
        "our 16 px set",
        "1",
        "4",
        "1",
        "1",
        "2",
        "1",
        "2",
        f"{MINUS}17.50",
    ]


def test_goodput_of_all_stages_is_weighted_by_busy_time() -> None:
    stages = [StageTime("a", 1, 1, 5.0, 10.0, 1.0, {"work": 10.0}), StageTime("b", 1, 2, 9.0, 30.0, 0.5, {})]
    whole = timing.total([*stages, StageTime("c", 1, 1, 1.0, 100.0, None, {})])
    assert whole.goodput == pytest.approx(25 / 40)
    assert (whole.parts, whole.attempts, whole.wall_seconds) == (3, 4, 15.0)


def test_a_figure_is_well_formed_and_names_its_series(html: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) == 8
    texts = ["".join(ElementTree.fromstring(d.replace("xlink:", "")).itertext()) for d in drawings]
    for words in (
        ("logvar_mix 0.3", "chosen", "1.25"),
        ("logvar_mix 0.1", "0.4"),
        ("resnet-wide",),
        ("seven",),
        ("78.0 %",),
    ):
        assert any(all(word in text for word in words) for text in texts), words
