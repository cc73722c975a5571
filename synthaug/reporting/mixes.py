"""Real, generated, and both together (the paper's Table 3), with all real images or a subset of them."""

from __future__ import annotations

from collections.abc import Sequence

from synthaug.reporting import commands, comparable, paper
from synthaug.reporting.comparisons import (
    ALL,
    beside,
    compare,
    copies_of,
    epochs_of,
    full,
    models,
    p_note,
    published_cell,
    score_cell,
    select,
    set_name,
    sets_of,
    steps_of,
    trained_on,
)
from synthaug.reporting.data import Report, Results, Row, run_rows
from synthaug.reporting.document import Cell, Column, Details, Line, Section, Table, Text, missing_section
from synthaug.reporting.numbers import (
    MINUS,
    NONE,
    SURE,
    count,
    decimal,
    delta_cell,
    finite,
    p_value,
    paired,
    protocol,
    signed,
)

TITLE = "Real, generated, both: Table 3"
SIGNS = f"The sign says better (+) or worse ({MINUS}) than real images alone; bold: p < {SURE:g}."
MIXES = (("real", "real"), ("generated", "generated"), ("real + generated", "real+generated"))


def section(report: Report) -> Section:
    """Returns Table 3: real / generated / real+generated for every classifier, the paper's and ours."""
    rows = report.rows("classify")
    if not any(row["mix"] == "real+generated" and row["subset"] == ALL for row in rows):
        otherwise = "no classifier was trained on all real images and generated images together."
        reason = report.why_not("classify", "real+generated", otherwise)
        return missing_section("mixes", TITLE, reason, commands.AUGMENT)
    table, lost = table_3(report.results)
    return Section("mixes", TITLE, [table, *commands.details(lost)])


def table_3(results: Results) -> tuple[Table, list[tuple[str, str]]]:
    """Returns the table, and the paper's rows that are not run with the command that runs them."""
    rows = full(run_rows(results, "classify"))
    lines: list[Line] = []
    shown: set[paper.Mix | None] = set()
    for name, px in sets_of([row for row in rows if row["mix"] == "real+generated"]):
        copies = next(iter(copies_of(rows, "real+generated", name)), 1)
        lines.append(Line([Cell(f"with {set_name(results, name)}, {copies}x as many as real")], "group"))
        for model in models([r for r in rows if (r["mix"], r["set"]) == ("real+generated", name)]):
            published = comparable.table_3(results, next(row for row in rows if row["model"] == model))
            same = comparable.table_3_set(results, name, px, copies)
            shown.add(published)
            lines.append(_line(rows, model, name, copies, published, same))
    left = [row for row in paper.TABLE_3 if row not in shown]
    if left:
        lines.append(
            Line([Cell(f"{paper.SOURCE}, with 1.2 M images of the 1024 px set; not run here")], "group")
        )
        lines += map(_published_line, left)
    columns = [Column("classifier", numeric=False), Column("px"), Column("params, M")]
    for group, _ in MIXES:
        columns += [Column(name, group=f"{group}, top-1 %") for name in ("paper", "ours", "diff.")]
    columns += [Column(name, group="Δ to real, points") for name in ("paper", "ours", "p")]
    how = f"{protocol(rows)}; {trained_on(rows)} training images. {p_note(compare(rows, 'real+generated'))}"
    lost = [(f"{row.model}, {row.input} px", commands.AUGMENT) for row in left]
    return Table(columns, lines, _caption(results), how, number=3), lost


def _caption(results: Results) -> str:
    text = (
        "The paper's Table 3: top-1 % on real validation images, mean ± deviation over training seeds. Δ is "
        f"real + generated minus real. {SIGNS} "
    )
    if not comparable.same_data(results):
        return text + (
            "This study has other images and networks than the paper, so the paper's rows stand for "
            "orientation and no difference is written."
        )
    return text + (
        "Difference: ours minus the paper's. The paper added its 1024 px set; beside another set its numbers "
        "for generated images stand for orientation, without a difference."
    )


def _input(rows: Sequence[Row], model: str) -> int:
    return int(next(row["input"] for row in rows if row["model"] == model))


def _millions(rows: Sequence[Row], model: str) -> str:
    known = finite(next(row["parameters"] for row in rows if row["model"] == model))
    return decimal(None if known is None else known / 1e6, 1 if known and known >= 1e6 else 3)


def _line(
    rows: Sequence[Row], model: str, name: str, copies: int, published: paper.Mix | None, same: bool
) -> Line:
    cells = [Cell(model), Cell(str(_input(rows, model))), Cell(_millions(rows, model))]
    numbers = [None] * 3 if published is None else [published.real, published.generated, published.mixed]
    found = [
        select(rows, model, "real"),
        select(rows, model, "generated", name, next(iter(copies_of(rows, "generated", name)), 1)),
        select(rows, model, "real+generated", name, copies),
    ]
    for (_, mix), cell, number in zip(MIXES, found, numbers, strict=True):
        cells += beside(cell, "top1", number, same or mix == "real")
    delta = paired(found[0], found[2], "top1")
    known = Cell(signed(published.delta), "muted") if published else Cell("")
    return Line([*cells, known, delta_cell(delta), Cell(p_value(delta.p))])


def _published_line(row: paper.Mix) -> Line:
    cells = [Cell(row.model), Cell(str(row.input)), Cell(decimal(row.parameters, 0))]
    for value in (row.real, row.generated, row.mixed):
        cells += [published_cell(value), Cell("not run", "muted"), Cell("")]
    return Line([*cells, Cell(signed(row.delta)), Cell("not run", "muted"), Cell("")], "published")


def budgets(rows: Sequence[Row]) -> Details:
    """Returns what each classifier was trained on and for how long, in steps and in passes."""
    names = ("copies", "images", "steps", "passes over the set", "seeds")
    columns = [Column(n, numeric=False) for n in ("classifier", "trained on", "set", "real images")]
    columns += [*map(Column, names), Column("held fixed", numeric=False)]
    lines = []
    keys = ("model", "mix", "set", "subset", "copies", "budget")
    for values in dict.fromkeys(tuple(row[k] for k in keys) for row in rows):
        cell = [row for row in rows if tuple(row[k] for k in keys) == values]
        model, mix, name, subset, copies, budget = values
        texts = [model, mix, name, NONE if mix == "generated" else subset, str(copies)]
        numbers = [trained_on(cell), steps_of(cell), epochs_of(cell), count(len(cell))]
        lines.append(Line([Cell(text) for text in (*texts, *numbers, budget)]))
    caption = (
        "Both budgets of every training: what is held fixed as the set grows is a setting, classify.budget; "
        "the other follows from it and the size of the set."
    )
    return Details("Training budgets: images, steps and passes", [Table(columns, lines, caption)])


# ------------------------------------------------------------------------------------- few images


def few_shot_section(report: Report) -> Section:
    """Returns the same comparison for subsets of the real images: few per class, or a long tail."""
    title, every = "Few real images", report.rows("classify")
    rows = [row for row in every if row["subset"] != ALL or row["mix"] == "generated"]
    subsets = list(dict.fromkeys((r["subset"], r["per_class"]) for r in rows if r["mix"] != "generated"))
    if not subsets:
        reason = "classify.subsets holds all real images only."
        return missing_section("few-shot", title, reason, commands.FEW_SHOT)
    lines, pairs = list[Line](), []
    for model in models([row for row in rows if row["mix"] != "generated"]):
        for subset, per_class in subsets:
            lines += _few_lines(report.results, rows, model, subset, per_class)
    for subset, _ in subsets:
        pairs += compare(rows, "real+generated", subset)
    caption = (
        "Top-1 % on real validation images when only a subset of the real training images is used. Δ is "
        f"real + generated minus real. {SIGNS}"
    )
    columns = [Column(n, numeric=False) for n in ("classifier", "subset", "generated set")]
    names = ("per class", "real images", "copies", *(name for name, _ in MIXES), "Δ, points", "p")
    columns += map(Column, names)
    text = (
        "A generator that has seen all real images makes images that carry more than the "
        "subset: these rows measure how well it passes that on, not few-shot learning end to end."
    )
    table = Table(columns, lines, caption, f"{protocol(rows)}. {p_note(pairs)}")
    return Section("few-shot", title, [Text(text), table])


def _few_lines(results: Results, rows: Sequence[Row], model: str, subset: str, per_class: int) -> list[Line]:
    real = select(rows, model, "real", subset=subset)
    lines = []
    for name, _ in sets_of(rows):
        copies = {*copies_of(rows, "real+generated", name), *copies_of(rows, "generated", name)}
        for number in sorted(copies):
            generated = select(rows, model, "generated", name, number)
            both = select(rows, model, "real+generated", name, number, subset)
            delta = paired(real, both, "top1")
            first = [Cell(model), Cell(subset), Cell(set_name(results, name))]
            first += [Cell(str(per_class) if per_class else "all"), Cell(trained_on(real)), Cell(str(number))]
            cells = [score_cell(cell, "top1") for cell in (real, generated, both)]
            lines.append(Line([*first, *cells, delta_cell(delta), Cell(p_value(delta.p))]))
    return lines
