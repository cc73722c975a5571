"""The first section: what the numbers say, in sentences made from the numbers alone."""

from __future__ import annotations

from collections.abc import Sequence

from synthaug.reporting import cas_figure, commands, comparable
from synthaug.reporting.comparisons import Comparison, compare, how_sure, set_name, sets_of, smallest_p
from synthaug.reporting.data import Report, Results, Row, run_rows
from synthaug.reporting.document import Section, Text, Tile, Tiles, not_run
from synthaug.reporting.numbers import (
    SURE,
    Delta,
    decimal,
    finite,
    percent_spread,
    places_for,
    plural,
    signed_points,
)


def section(report: Report) -> Section:
    """Returns the headline: up to four numbers in large type, and three to five sentences."""
    tiles = Tiles([tile for tile in (_cas_tile(report), _mix_tile(report), *_quality_tiles(report)) if tile])
    texts = [Text(sentence, kind="lead") for sentence in sentences(report)]
    reason = cas_figure.missing(report.results)
    figure = not_run("Figure 1", reason, commands.AUGMENT) if reason else [cas_figure.figure(report.results)]
    return Section(
        "headline", "In short: Figure 1", [tiles, *texts, Text(remark(report), kind="note"), *figure]
    )


def sentences(report: Report) -> list[str]:
    """Returns what was found, worse as plainly as better."""
    results = report.results
    return [_cas_sentence(results), *_mix_sentences(results), _quality_sentence(report.rows("score"))]


def worded(delta: Delta) -> str:
    """Returns "better by 0.56 points", "worse by 1.20 points", or "equal to two decimals"."""
    if delta.difference.mean is None or delta.sign == 0:
        return "equal to two decimals" if delta.difference.mean is not None else "not comparable"
    size = abs(100 * delta.difference.mean)
    return f"{'better' if delta.sign > 0 else 'worse'} by {size:.2f} points"


def _certainty(delta: Delta) -> str:
    """Returns the evidence, and in words whether the seeds alone could have made the difference."""
    text, pairs = how_sure(delta), delta.difference.seeds
    if delta.p is None or delta.sure or delta.sign == 0:
        return f"({text})"
    if delta.p < 1.001 * smallest_p(pairs):
        return f"({text}: all agree, but they are too few to be sure)"
    return f"({text}: the scatter between seeds could explain it)"


def _usable(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return [c for c in comparisons if c.delta.difference.mean is not None]


def _first_copy(comparisons: list[Comparison]) -> list[Comparison]:
    """Returns each classifier and set with the fewest copies: CAS as the paper defines it uses one."""
    return list({(c.model, c.set): c for c in reversed(comparisons)}.values())[::-1]


def _cas_sentence(results: Results) -> str:
    found = _first_copy(_usable(compare(run_rows(results, "classify"), "generated")))
    if not found:
        return "No classifier was trained on both real and generated images, so there is no CAS to compare."
    first = found[0]
    text = (
        f"Trained on generated images alone{_of_set(results, first)}, {first.model} reaches "
        f"{percent_spread(first.other)} % top-1 on the real validation images (CAS); trained on the real "
        f"images it reaches {percent_spread(first.real)} %. The generated set is {worded(first.delta)} "
        f"{_certainty(first.delta)}."
    )
    if len(found) > 1:
        low, high = (f(found, key=lambda c: c.delta.difference.mean or 0.0) for f in (min, max))
        text += (
            f" Over all {plural(len(found), 'pair')} of classifier and set the difference runs from "
            f"{signed_points(low.delta.difference)} to {signed_points(high.delta.difference)} points."
        )
    return text


def _of_set(results: Results, found: Comparison) -> str:
    """Returns which generated set it is, where a study has several."""
    several = len(sets_of(run_rows(results, "classify"))) > 1
    return f" ({set_name(results, found.set)})" if several else ""


def best_mix(rows: Sequence[Row]) -> Comparison | None:
    """Returns the comparison in which adding generated images to all real ones helped most."""
    found = _usable(compare(rows, "real+generated"))
    return max(found, key=lambda c: c.delta.difference.mean or 0.0, default=None)


def _mix_sentences(results: Results) -> list[str]:
    rows = run_rows(results, "classify")
    best = best_mix(rows)
    if best is None:
        return ["No classifier was trained on real and generated images together."]
    found = _usable(compare(rows, "real+generated"))
    where = f"{best.model} with {plural(best.copies, 'generated copy')}{_of_set(results, best)}"
    numbers = f"{percent_spread(best.real)} → {percent_spread(best.other)} %"
    return [
        f"Adding generated images to the real ones {_verdict(best, found, where)}: {numbers}, "
        f"{worded(best.delta)} {_certainty(best.delta)}.",
        *_tally(found),
    ]


def _verdict(best: Comparison, found: Sequence[Comparison], where: str) -> str:
    """Returns what the best setting means for all of them; "helps" is said of sure gains only."""
    if best.delta.sign > 0:
        return f"helps {where} most" if best.delta.sure else f"may help; {where} gains most"
    if all(c.delta.sign < 0 for c in found):
        return f"made results worse; the smallest loss is that of {where}"
    return f"did not help; the best result is that of {where}"


def _tally(found: Sequence[Comparison]) -> list[str]:
    if len(found) < 2:
        return []
    better = [c for c in found if c.delta.sign > 0]
    worse = [c for c in found if c.delta.sign < 0]
    sure = [sum(c.delta.sure for c in group) for group in (better, worse)]
    return [
        f"Of {len(found)} settings (classifier, set and copies), {len(better)} are better than real images "
        f"alone and {len(worse)} are worse; at p < {SURE:g}: {sure[0]} better, {sure[1]} worse. "
        "The best of several was picked after the fact, which flatters its p-value."
    ]


def final_scores(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows of the generated set at the highest resolution, val before train."""
    made = [row for row in rows if not row["set"].startswith("real ")]
    generated = [row for row in made if row["set"] == "generated"] or made[:2]
    top = max((row["resolution"] for row in generated), default=0)
    return sorted((r for r in generated if r["resolution"] == top), key=lambda r: r["reference"] != "val")


def real_score(rows: Sequence[Row], row: Row) -> Row | None:
    """Returns the row of real images against the same reference: the floor of FID, which is not 0."""
    same = [
        r
        for r in rows
        if r["set"] == ("real train" if row["reference"] == "val" else "real val")
        and (r["resolution"], r["reference"], r["encoder_hash"])
        == (row["resolution"], row["reference"], row["encoder_hash"])
    ]
    return same[0] if same else None


def _quality_sentence(rows: Sequence[Row]) -> str:
    final = final_scores(rows)
    if not final or finite(final[0]["fid"]) is None:
        return "The generated set was not scored, so there is no FID."
    row = final[0]
    floor = real_score(rows, row)
    fids = [row["fid"], floor["fid"] if floor else None]
    places = places_for(fids)
    text = (
        f"At {row['resolution']} px the generated set has FID {decimal(row['fid'], places)} against the "
        f"{row['reference']} split (n = {row['n']:,})"
    )
    if floor:
        text += f"; other real images score {decimal(floor['fid'], places)} there (n = {floor['n']:,}), not 0"
    return (
        f"{text}. Its Inception Score is {decimal(row['inception_score'])}"
        + (f", theirs {decimal(floor['inception_score'])}" if floor else "")
        + "."
    )


def remark(report: Report) -> str:
    """Returns what these numbers may and may not be compared with."""
    measured = report.rows("score") + report.rows("sweep")
    encoders = sorted({row["encoder"] for row in measured})
    if measured and all(map(comparable.is_inception, measured)):
        return f"Features: {', '.join(encoders)}; {plural(len(report.class_names), 'class')}."
    if comparable.same_data(report.results):
        return (
            "Accuracies stand beside the paper's in Tables 2 to 4. FID, Inception Score, precision, recall "
            f"do not: their features come from {', '.join(encoders) or 'no encoder'}, not from Inception."
        )
    size = f"Toy size: {plural(len(report.class_names), 'class')}"
    if not encoders:
        return f"{size}; these accuracies compare with each other, not with published ones."
    what = f"a classifier trained on this study's real images ({', '.join(encoders)})"
    if any(name.startswith("dinov2") for name in encoders):
        what = ", ".join(encoders)
    return (
        f"{size}, and the encoder behind FID, Inception Score, precision and recall is {what}, not Inception."
        " These numbers compare with each other; they do not compare with published FID or accuracy."
    )


def _cas_tile(report: Report) -> Tile | None:
    found = _first_copy(_usable(compare(report.rows("classify"), "generated")))
    if not found:
        return None
    first = found[0]
    detail = f"generated only, {first.model}; real only: {percent_spread(first.real)}"
    return Tile("CAS, top-1", percent_spread(first.other), "%", detail)


def _mix_tile(report: Report) -> Tile | None:
    best = best_mix(report.rows("classify"))
    if best is None:
        return None
    tone = {1: "up", 0: "", -1: "down"}[best.delta.sign]
    detail = f"best of real + generated, {best.model}, {plural(best.copies, 'copy')}; {how_sure(best.delta)}"
    return Tile("Against real alone", signed_points(best.delta.difference), "pt", detail, tone)


def _quality_tiles(report: Report) -> list[Tile]:
    rows = report.rows("score")
    final = final_scores(rows)
    if not final:
        return []
    row, floor = final[0], real_score(rows, final[0])
    places = places_for([row["fid"]])
    real = f"; real images: {decimal(floor['fid'], places)}" if floor else ""
    where = f"{row['resolution']} px, {row['reference']} split"
    shares = [f"{decimal(row[key], 3)}" for key in ("precision", "recall")]
    return [
        Tile("FID", decimal(row["fid"], places), "", f"{where}, n = {row['n']:,}{real}"),
        Tile("Precision / recall", " / ".join(shares), "", f"{where}, k = {row['neighbours']}"),
    ]
