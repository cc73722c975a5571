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
from sklearn.datasets import load_digits

from synthaug import licences
from synthaug.metrics.accuracy import mean_and_deviation, paired_test
from synthaug.reporting import drawing, headline, numbers, paper, provenance, scaling, timing
from synthaug.reporting.comparisons import Arm
from synthaug.reporting.data import Choice, PerClass, Report, SampleGrid, StageTime
from synthaug.reporting.document import Details, Section, Table
from synthaug.reporting.write import build, write

ENCODER = {"encoder": "resnet on real digits", "encoder_hash": "9f31c04b7a55", "resize": "none"}
SEEDS = range(6)
MODELS = {"resnet": 0.967, "resnet-wide": 0.975, "vit": 0.951}
GAINS = {1: 0.006, 2: 0.008, 4: -0.003}
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SECTIONS = (
    *("headline", "samples", "sweep", "scores", "cas", "mixes"),
    *("scaling", "few-shot", "classes", "time", "provenance"),
)
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def digits() -> SampleGrid:
    data = load_digits()
    images = (data.images * 255 / 16).round().astype(np.uint8)[..., None]
    rng = np.random.default_rng(0)
    real = np.stack([images[data.target == k][:8] for k in range(10)])
    noise = rng.normal(0, 22, real.shape)
    fake = np.stack([images[data.target == k][20:28] for k in range(10)])
    return SampleGrid(8, NAMES, real, (fake + noise).clip(0, 255).astype(np.uint8))


def sweep_rows() -> list[dict[str, Any]]:
    rng, rows = np.random.default_rng(1), []
    grids = {
        "guidance": ("base8", 8, [1.0, 1.25, 1.5, 2.0, 5.0], [0.0], [0.0, 0.3, 1.0]),
        "augmentation": ("sr16", 16, [1.0], [0.0, 0.1, 0.2, 0.3, 0.4], [0.1, 0.3]),
    }
    for phase, (model, resolution, weights, levels, mixes) in grids.items():
        for weight in weights:
            for level in levels:
                for mix in mixes:
                    fid = (
                        5
                        + 9 * abs(math.log(weight / 1.25)) ** 1.4
                        + 2.5 * mix
                        + 8 * level
                        + rng.uniform(0, 0.3)
                    )
                    row = {
                        "phase": phase, "model": model, "resolution": resolution, "checkpoint": 0,
                        "solver": "ddpm", "num_sampling_steps": 64, "guidance_weight": weight,
                        "logvar_mix": mix, "aug_level": level, "guidance_min_t": 0.0, "guidance_max_t": 1.0,
                        "guide_checkpoint": 0, "ema_length": 0.0,
                        "n": 1024, "reference": "val", "encoder": ENCODER["encoder"],
                        "encoder_hash": ENCODER["encoder_hash"], "seed": 0, "fid": fid,
                        "inception_score": 6.0 + 1.5 * math.log(weight + 0.5), "inception_score_std": 0.11,
                        "cas": 0.93 - 0.011 * fid + rng.uniform(0, 0.01), "chosen": False, "pareto": False,
                    }  # fmt: skip
                    rows.append(row)
        own = [r for r in rows if r["phase"] == phase]
        min(own, key=lambda r: r["fid"])["chosen"] = True
        for row in own:
            row["pareto"] = not any(r["fid"] < row["fid"] and r["cas"] > row["cas"] for r in own)
    return rows


def score_rows() -> list[dict[str, Any]]:
    measured = {
        ("generated", "train"): (5.213, 8.01, 0.921, 0.874),
        ("generated", "val"): (6.482, 8.01, 0.913, 0.866),
        ("real train", "val"): (1.337, 9.12, 0.962, 0.958),
        ("real val", "train"): (1.402, 9.03, 0.957, 0.949),
    }
    return [
        {
            "set": name, "resolution": 16, "reference": reference, "n": 360 if name == "real val" else 1437,
            "n_reference": 1437 if reference == "train" else 360, **ENCODER, "splits": 10,
            "neighbours": 3, "max_images": 10000, "seed": 0, "fid": fid, "inception_score": score,
            "inception_score_std": 0.13, "precision": precision, "recall": recall,
        }
        for (name, reference), (fid, score, precision, recall) in measured.items()
    ]  # fmt: skip


def classify_rows(gains: dict[int, float] = GAINS) -> list[dict[str, Any]]:
    rng, rows = np.random.default_rng(2), []

    def add(model: str, mix: str, copies: int, shots: int, seed: int, top1: float, n_train: int) -> None:
        rows.append(
            {
                "model": model, "resolution": 16, "mix": mix, "copies": copies, "shots": shots, "seed": seed,
                "top1": top1, "top5": min(1.0, top1 + 0.02), "n_train": n_train, "num_steps": 400,
            }
        )  # fmt: skip

    for model, accuracy in MODELS.items():
        for seed in SEEDS:
            luck = float(rng.normal(0, 0.003))
            add(model, "real", 0, 0, seed, accuracy + luck, 1437)
            add(model, "generated", 1, 0, seed, accuracy - 0.061 + luck + float(rng.normal(0, 0.002)), 1437)
            for copies, gain in gains.items():
                own = gain + float(rng.normal(0, 0.0015))
                add(model, "real+generated", copies, 0, seed, accuracy + luck + own, 1437 * (1 + copies))
    for shots, top1 in ((1, 0.52), (5, 0.81)):
        for seed in SEEDS:
            add("resnet", "real", 0, shots, seed, top1 + float(rng.normal(0, 0.01)), 10 * shots)
            add(
                "resnet",
                "real+generated",
                1,
                shots,
                seed,
                0.9 + float(rng.normal(0, 0.01)),
                1437 + 10 * shots,
            )
    return rows


def per_class() -> list[PerClass]:
    rng, results = np.random.default_rng(3), []
    for model in MODELS:
        for mix, mean in (("real", 0.965), ("generated", 0.9)):
            for seed in SEEDS:
                accuracy = (mean + rng.normal(0, 0.03, 10)).clip(0, 1)
                results.append(PerClass(model, mix, 1 if mix == "generated" else 0, 0, seed, accuracy))
    return results


def stages() -> list[StageTime]:
    names = ("prepare", "embed", "encoder", "finetune", "sweep", "sample", "score", "classify")
    found = []
    for i, stage in enumerate(names):
        busy = (2.1, 0.8, 22.0, 190.0, 140.0, 95.0, 12.0, 170.0)[i]
        buckets = {"work": 0.78 * busy, "compile": 0.12 * busy, "input": 0.04 * busy, "save": 0.06 * busy}
        if stage == "finetune":
            buckets["lost"] = 9.0
        found.append(StageTime(stage, 1 + i, 1 + i + (stage == "finetune"), busy / 2, busy, 0.78, buckets))
    return found


def report(**changes: Any) -> Report:
    choices = [
        Choice(
            "guidance", "base8", "lowest fid", {"guidance_weight": 1.25, "logvar_mix": 0.0}, 5.1, 6.84, 0.874
        ),
        Choice("augmentation", "sr16", "lowest fid", {"aug_level": 0.0, "logvar_mix": 0.1}, 5.5, 6.6, None),
    ]
    results = {
        "name": "digits",
        "versions": {
            "synthaug": "0.1.0",
            "jax": "0.10.2",
            "flax": "0.12.8",
            "numpy": "2.4.6",
            "python": "3.11.2",
        },
        "licences": [dataclasses.asdict(licences.LICENCES["deepfloyd-if"])],
        "sweep": sweep_rows(),
        "score": score_rows(),
        "classify": classify_rows(),
    }
    results.update({k: changes.pop(k) for k in ("sweep", "score", "classify") if k in changes})
    made = Report(
        name="digits",
        title="Handwritten digits: what is generated data worth?",
        description="The whole study of Azizi et al. 2023 at toy size: a two-model cascade (8 to 16 px) "
        "fine-tuned on 1,437 scans of handwritten digits.",
        results=results,
        samples=[digits()],
        per_class=per_class(),
        stages=stages(),
        choices=choices,
        class_names=NAMES,
        notes=["finetune: part 0 was stopped once and resumed at step 1,500."],
        settings_text='cascade.base8.resolution: 8\nname: "digits"\nseed: 0\n',
        command="synthaug run jobs/digits.yaml",
    )
    return dataclasses.replace(made, **changes)


def bare(**changes: Any) -> Report:
    """Returns a report without anything that takes time to draw."""
    empty = {
        "sweep": [],
        "score": [],
        "classify": [],
        "samples": [],
        "per_class": [],
        "stages": [],
        "choices": [],
    }
    return report(**{**empty, **changes})


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
        if (r["model"], r["mix"], r["copies"], r["shots"]) == (model, mix, copies, shots)
    ]


# ------------------------------------------------------------------------------------------- the files


def test_the_files_are_the_page_the_markdown_and_a_png_per_figure(written: pathlib.Path) -> None:
    names = sorted(str(p.relative_to(written)) for p in written.rglob("*") if p.is_file())
    pngs = ["classes", "samples-8", "scaling", "sweep-augmentation", "sweep-guidance", "time"]
    assert names == [*(f"figures/{name}.png" for name in pngs), "report.html", "report.md"]
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
    assert len(links) == 6
    assert all((written / link).is_file() for link in links)


def test_both_files_hold_every_cell_of_every_table(html: str, markdown: str, sections: list[Section]) -> None:
    page = Page(html).text
    assert len(tables(sections)) >= 14
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
        SampleGrid(96, [str(k) for k in range(30)], noise, noise),
        SampleGrid(97, ["a"], noise[:1], noise[:1]),
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
            samples=[SampleGrid(8, [EVIL] * 10, grid.real, grid.generated)],
            classify=[{**r, "model": EVIL} for r in classify_rows()],
            per_class=[dataclasses.replace(p, model=EVIL) for p in per_class()],
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
    assert {len(row) for row in rows} == {7}
    assert rows[2][0] == "a\\|b"


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
        dataclasses.replace(p, accuracy=np.where(np.arange(10) == 3, np.nan, p.accuracy)) for p in per_class()
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
    assert next(row[2:] for row in table_rows(markdown, "mixes") if row[0] == "diverged") == [DASH] * 5
    assert [row[2] for row in table_rows(markdown, "classes") if row[0] == "resnet"] == ["9"]


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
        "Not run: no stage recorded its time", "Not run: classify.shots holds 0 only",
        "Not run: a curve needs at least two", "not run: no weights <for> 64 px",
        "No classifier was trained on both real and generated images", "The generated set was not scored",
    ):  # fmt: skip
        assert reason in text, reason
    coverage = table_rows((tmp_path / "report.md").read_text(), "provenance")
    assert [row[1] for row in coverage[2:11]] == ["not run"] * 9
    assert all(len(row[2]) > 20 for row in coverage[2:11])


def test_a_section_gives_the_reason_of_its_own_lines() -> None:
    lost = [{**r, "top1": None, "not_run": f"{r['mix']} ran out of time"} for r in classify_rows()]
    made = {section.slug: section.missing for section in build(bare(classify=lost))}
    assert made["cas"] == "generated ran out of time"
    assert made["mixes"] == "real+generated ran out of time"


def test_the_coverage_table_tells_run_from_not_run(sections: list[Section]) -> None:
    one_phase = report(sweep=[r for r in sweep_rows() if r["phase"] == "guidance"])
    made = tables([provenance.section(one_phase, sections)])[0]
    status = {line.cells[0].text: line.cells[1].text for line in made.lines}
    assert status.pop("Fig. 4: noise augmentation of super-resolution") == "not run"
    assert set(status.values()) == {"run"}


# ---------------------------------------------------------------------------------------- the numbers


def test_accuracies_in_the_markdown_are_those_of_the_results(markdown: str) -> None:
    rows = classify_rows()
    shown = {(row[0], row[1]): row for row in table_rows(markdown, "mixes")}
    for model in MODELS:
        real = top1(rows, model, "real", 0)
        for copies in GAINS:
            row = shown[model, str(copies)]
            both = top1(rows, model, "real+generated", copies)
            delta = np.subtract(both, real)
            assert row[2] == f"{100 * np.mean(real):.2f} ± {100 * np.std(real, ddof=1):.2f}"
            assert row[4] == f"{100 * np.mean(both):.2f} ± {100 * np.std(both, ddof=1):.2f}"
            sign = "+" if delta.mean() > 0 else MINUS
            expected = f"{sign}{abs(100 * delta.mean()):.2f} ± {100 * delta.std(ddof=1):.2f}"
            assert row[5].strip("*") == expected
            assert row[6] == f"{paired_test(both, real):.3f}"
            assert row[3] == ("not run" if copies > 1 else row[3])


def test_cas_stands_above_the_papers_table_2(markdown: str) -> None:
    rows = table_rows(markdown, "cas")
    generated = [row for row in rows if row[0] == "generated, 1 copy"]
    for row, model in zip(generated, MODELS, strict=True):
        mean, deviation = mean_and_deviation(top1(classify_rows(), model, "generated", 1))
        assert row[2] == f"{100 * mean:.2f} ± {100 * deviation:.2f}"
        assert row[4].startswith(f"**{MINUS}")
    names = [row[0] for row in rows]
    label = next(name for name in names if "not comparable" in name)
    assert "ImageNet" in label
    assert names.index(label) < names.index("fine-tuned Imagen, 1024 px")
    assert rows[-1] == ["fine-tuned Imagen, 1024 px", "", "69.24", "88.10", f"{MINUS}3.85", ""]


def test_scores_in_the_markdown_are_those_of_the_results(markdown: str) -> None:
    rows = [row for row in table_rows(markdown, "scores") if row[1] == "16"]
    expected = [
        [r["set"], "16", r["reference"], f"{r['n']:,}", f"{r['n_reference']:,}", f"{r['fid']:.2f}",
         f"{r['inception_score']:.2f} ± 0.13", f"{r['precision']:.3f}", f"{r['recall']:.3f}"]
        for r in score_rows()
    ]  # fmt: skip
    assert [[c.strip("*") for c in row] for row in rows] == expected
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
    before = text.split("<details>")[0]
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
    assert {row[6] for row in found} == {DASH}
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
            r for r in rows if r["mix"] == "real" and r["seed"] == row["seed"] and r["shots"] == row["shots"]
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
    rows = [r for r in classify_rows() if r["shots"] == 0]
    points = scaling.curve(rows, Arm("vit", 16), [1, 2, 4])
    assert [c for c, _ in points] == [0, 1, 2, 4]
    assert points[0][1].mean == pytest.approx(np.mean(top1(rows, "vit", "real", 0)))
    assert points[3][1].deviation == pytest.approx(np.std(top1(rows, "vit", "real+generated", 4), ddof=1))


def test_class_statistics_count_better_worse_and_never() -> None:
    real, fake = np.array([0.9, 0.5, 0.0, 0.7, np.nan]), np.array([0.8, 0.6, 0.0, 0.0, 1.0])
    made = bare(
        per_class=[PerClass("m", "real", 0, 0, 0, real), PerClass("m", "generated", 1, 0, 0, fake)],
        class_names=list("abcde"),
    )
    statistics = next(t for t in tables(build(made)) if t.columns[-1].name == "mean Δ, points")
    assert [c.text for c in statistics.lines[0].cells] == [
        "m",
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
    assert len(drawings) == 5
    texts = ["".join(ElementTree.fromstring(d.replace("xlink:", "")).itertext()) for d in drawings]
    for words in (
        ("logvar_mix 0.3", "chosen", "1.25"),
        ("logvar_mix 0.1", "0.4"),
        ("resnet-wide",),
        ("seven",),
        ("78.0 %",),
    ):
        assert any(all(word in text for word in words) for text in texts), words


# --------------------------------------------------------------------------------------------- paper


def test_the_papers_printed_deltas_follow_from_its_columns() -> None:
    printed = (1.78, 1.59, 1.56, 0.87, 0.78, 0.51, 0.29, 1.11, 1.52, 1.04, 0.59, 0.83)
    for row, delta in zip(paper.TABLE_3, printed, strict=True):
        assert row.mixed - row.real == pytest.approx(delta, abs=0.011)
    zero = paper.TABLE_4[0]
    assert [round(r.top1_256 - zero.top1_256, 2) for r in paper.TABLE_4[1:4]] == [1.22, 0.77, 0.13]
    assert [round(r.top1_1024 - zero.top1_1024, 2) for r in paper.TABLE_4[-2:]] == [-2.25, -2.69]
