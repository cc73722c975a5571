"""The words of the command line: which verbs there are, and what each is called with."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from synthaug import __version__
from synthaug.experiment import Encoder, Score

Command = Callable[[argparse.Namespace], int]

FORMATS = ("npz", "folder", "webdataset", "tfrecord")

KEPT = ("max_images", "allow_small_n")
"""Knobs of `experiment.Score` that `reference` takes as options of the same names."""

SCORED = (*KEPT, "splits", "neighbours", "kid_subsets", "kid_subset_size", "sizes")
"""Knobs that `score` takes."""

ENCODED = ("backend", "shrink_to", "batch_size")
"""Knobs of `experiment.Encoder` likewise."""


def parse(commands: Mapping[str, Command], argv: Any = None) -> argparse.Namespace:
    """Returns the parsed command line; KEY=VALUE settings may stand anywhere after the job file."""
    parser = build_parser(commands)
    args, rest = parser.parse_known_args(argv)
    # argparse takes one run of positional words only: settings after an option are left over.
    strays = [word for word in rest if word.startswith("-") or "=" not in word]
    if strays or (rest and not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(strays or rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def build_parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Returns the parser of all verbs, each with what it does in `command`."""
    parser = argparse.ArgumentParser(
        prog="synthaug",
        description="Turns a text-to-image diffusion cascade into training data and measures its worth.",
        epilog="To resume anything, run the same command again.",
    )
    parser.add_argument("--version", action="version", version=f"synthaug {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(command=commands[name], verb=name)
        return made

    _add_run(verb("run", "run a study on this machine, or go on with it"))
    plan = verb("plan", "print every job of a study")
    _add_job(plan)
    plan.add_argument("--json", action="store_true", help="as JSON")
    _add_show(verb("show", "print the resolved settings of a study, sorted"))
    status = verb("status", "print what is finished")
    _add_name(status)
    status.add_argument("--json", action="store_true", help="as JSON")
    _add_report(verb("report", "write the report of a finished study again"))
    _add_score(verb("score", "FID, Inception Score, precision, recall and more of any images"))
    _add_reference(verb("reference", "write the statistics that score compares with, once"))
    _add_export(verb("export", "write a finished set of images in a format that others read"))
    _add_import(verb("import", "turn public weights into a checkpoint that training starts from"))
    _add_export_weights(verb("export-weights", "write a checkpoint as public weights"))
    _add_exec(verb("exec", "run one part in this process: what a scheduler's job does"))
    return parser


# ----------------------------------------------------------------------------------------- studies


def _add_run(run: argparse.ArgumentParser) -> None:
    _add_job(run)
    _add_runs(run)
    run.add_argument("--site", type=pathlib.Path, metavar="FILE", help="YAML with workers and devices")
    run.add_argument("--stage", metavar="STAGE", help="only this stage")
    run.add_argument("--part", type=int, metavar="N", help="only this part of --stage")
    run.add_argument("--until", metavar="STAGE", help="only this stage and those that it needs")
    run.add_argument(
        "--force", action="store_true", help="redo --stage or its --part, then what depends on it"
    )
    run.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _add_show(show: argparse.ArgumentParser) -> None:
    show.add_argument(
        "job", nargs="?", type=pathlib.Path, metavar="JOB", help="job file, e.g. jobs/digits.yaml"
    )
    show.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that win over the file")
    show.add_argument("--schema", action="store_true", help="print the JSON schema of job files instead")


def _add_report(report: argparse.ArgumentParser) -> None:
    _add_name(report)
    report.add_argument(
        "--so-far",
        action="store_true",
        help="with what is finished so far, the rest shown as not run",
    )


def _add_exec(execute: argparse.ArgumentParser) -> None:
    execute.add_argument("run", type=pathlib.Path, metavar="RUN", help="run directory")
    execute.add_argument("--stage", metavar="STAGE", help="stage of the plan")
    execute.add_argument("--part", type=int, default=0, metavar="N", help="part of the stage (0)")
    execute.add_argument("--site", type=pathlib.Path, metavar="FILE", help="YAML with workers and devices")
    execute.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    execute.add_argument("--site-json", help=argparse.SUPPRESS)


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", type=pathlib.Path, metavar="JOB", help="job file, e.g. jobs/digits.yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that win over the file")


def _add_runs(parser: argparse.ArgumentParser) -> None:
    default = pathlib.Path("runs")
    parser.add_argument(
        "--runs", type=pathlib.Path, default=default, metavar="DIR", help="where runs live (./runs)"
    )


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the run, or its directory")
    _add_runs(parser)


# ----------------------------------------------------------------------------------------- weights


def _add_import(bring: argparse.ArgumentParser) -> None:
    bring.add_argument("family", metavar="FAMILY", help="deepfloyd-if, adm, or synthaug for our own exports")
    bring.add_argument("folder", type=pathlib.Path, metavar="FOLDER", help="config.json and safetensors")
    bring.add_argument("checkpoint", type=pathlib.Path, metavar="CHECKPOINT", help="folder to write")


def _add_export_weights(export: argparse.ArgumentParser) -> None:
    export.add_argument("checkpoint", type=pathlib.Path, metavar="CHECKPOINT", help="folder of one step")
    export.add_argument("folder", type=pathlib.Path, metavar="FOLDER", help="folder to write")
    export.add_argument("--params", action="store_true", help="the last weights instead of the averaged ones")
    export.add_argument(
        "--ema-length", type=float, metavar="S", help="the post-hoc EMA of this relative length, e.g. 0.05"
    )


# ---------------------------------------------------------------------------------- sets of images

_IMAGES = (
    "a folder, zip, tar or npz of images, WebDataset tars such as 'set-{000..049}.tar', a run's "
    "images such as runs/digits:generated/8, those that its study scores (its folder: all of them)"
)


def _add_score(score: argparse.ArgumentParser) -> None:
    score.add_argument("images", metavar="IMAGES", help=_IMAGES)
    score.add_argument(
        "--reference",
        required=True,
        metavar="REF",
        help="real images in any of these forms, a file of `synthaug reference`, or an npz of ADM's",
    )
    _add_measuring(score)
    for name in SCORED:
        _add_knob(score, Score, name)
    score.add_argument(
        "--split-size", type=int, metavar="N", help="images in a split of the Inception Score, for --splits"
    )
    score.add_argument("--json", metavar="FILE", help="write numbers and protocol there; - for the screen")


def _add_reference(reference: argparse.ArgumentParser) -> None:
    reference.add_argument("images", metavar="IMAGES", help=_IMAGES)
    reference.add_argument("out", type=pathlib.Path, metavar="OUT", help="npz file to write")
    _add_measuring(reference)
    for name in KEPT:
        _add_knob(reference, Score, name)


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--encoder",
        default="inception",
        metavar="NAME",
        help="inception (FID, sFID, IS), dinov2 (FD-DINOv2), or the directory of a run, for its own encoder",
    )
    parser.add_argument("--weights", default="", metavar="FILE", help=_doc(Encoder, "path"))
    for name in ENCODED:
        _add_knob(parser, Encoder, name)
    parser.add_argument("--size", type=int, metavar="PX", help="bring all images to this side, by --resize")
    parser.add_argument(
        "--resize",
        metavar="NAME",
        help="how --size is reached: adm, cas, area cut out the central square; pillow-bicubic etc. stretch",
    )
    parser.add_argument(
        "--num-images", type=int, metavar="N", help="so many images, drawn with --seed, instead of all"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of every draw and split (0)")
    parser.add_argument(
        "--skip-corrupt", action="store_true", help="leave images out that cannot be read, and name them"
    )
    parser.add_argument(
        "--cache",
        type=pathlib.Path,
        metavar="DIR",
        help="keep what is encoded there: the same command goes on after a stop, and encodes nothing twice",
    )
    parser.add_argument("--site", type=pathlib.Path, metavar="FILE", help="YAML with devices")
    parser.add_argument("--quiet", action="store_true", help="no progress and no table")


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("set", metavar="SET", help="a run's images, such as runs/digits:generated/8")
    export.add_argument("out", type=pathlib.Path, metavar="OUT", help="file or folder to write")
    export.add_argument("--format", required=True, choices=FORMATS, help="npz: arr_0, arr_1 as ADM reads it")
    export.add_argument("--num-images", type=int, metavar="N", help="the first N instead of all")
    export.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _add_knob(parser: argparse.ArgumentParser, cls: type, name: str) -> None:
    """Adds a setting of a study as an option; its range is checked where the settings are built."""
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    option, text = "--" + name.replace("_", "-"), _doc(cls, name)
    if isinstance(field.default, bool):
        parser.add_argument(option, action="store_true", default=None, help=text)
        return
    shown = f" ({field.default})" if field.default != () else ""
    metavar = "|".join(field.metadata["choices"]) or ("N,N,..." if field.default == () else "N")
    parser.add_argument(option, metavar=metavar, help=text + shown)


def _doc(cls: type, name: str) -> str:
    field = next(field for field in dataclasses.fields(cls) if field.name == name)
    return str(field.metadata["doc"]).replace("%", "%%")
