"""The command line. A user's error is one line and exit code 2; a stop that was asked for is exit code 75."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from synthaug import __version__
from synthaug.errors import Interrupted, RunError, SynthaugError

# jax and the stages are imported where they are needed: help, show, plan and status answer at once.


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    try:
        args = parse(argv)
        return args.command(args)
    except SynthaugError as error:
        print(f"synthaug: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output left, e.g. `synthaug show | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line; KEY=VALUE settings may stand anywhere after the job file."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    # argparse takes one run of positional words only: settings after an option are left over.
    strays = [word for word in rest if word.startswith("-") or "=" not in word]
    if strays or (rest and not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(strays or rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="synthaug",
        description="Turns a text-to-image diffusion cascade into training data and measures its worth.",
        epilog="To resume anything, run the same command again.",
    )
    parser.add_argument("--version", action="version", version=f"synthaug {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    run = _verb(verbs, "run", _run, "run a study on this machine, or go on with it")
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

    plan = _verb(verbs, "plan", _plan, "print every job of a study")
    _add_job(plan)
    plan.add_argument("--json", action="store_true", help="as JSON")

    show = _verb(verbs, "show", _show, "print the resolved settings of a study, sorted")
    show.add_argument(
        "job", nargs="?", type=pathlib.Path, metavar="JOB", help="job file, e.g. jobs/digits.yaml"
    )
    show.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that win over the file")
    show.add_argument("--schema", action="store_true", help="print the JSON schema of job files instead")

    status = _verb(verbs, "status", _status, "print what is finished")
    _add_name(status)
    status.add_argument("--json", action="store_true", help="as JSON")

    report = _verb(verbs, "report", _report, "write the report of a finished study again")
    _add_name(report)
    report.add_argument(
        "--so-far",
        action="store_true",
        help="with the classifiers that are finished, the others shown as not run",
    )

    bring = _verb(verbs, "import", _import, "turn public weights into a checkpoint that training starts from")
    bring.add_argument("family", metavar="FAMILY", help="deepfloyd-if, adm, or synthaug for our own exports")
    bring.add_argument("folder", type=pathlib.Path, metavar="FOLDER", help="config.json and safetensors")
    bring.add_argument("checkpoint", type=pathlib.Path, metavar="CHECKPOINT", help="folder to write")

    export = _verb(verbs, "export-weights", _export_weights, "write a checkpoint as public weights")
    export.add_argument("checkpoint", type=pathlib.Path, metavar="CHECKPOINT", help="folder of one step")
    export.add_argument("folder", type=pathlib.Path, metavar="FOLDER", help="folder to write")
    export.add_argument("--params", action="store_true", help="the last weights instead of the averaged ones")
    export.add_argument(
        "--ema-length", type=float, metavar="S", help="the post-hoc EMA of this relative length, e.g. 0.05"
    )

    execute = _verb(verbs, "exec", _exec, "run one part in this process: what a scheduler's job does")
    execute.add_argument("run", type=pathlib.Path, metavar="RUN", help="run directory")
    execute.add_argument("--stage", metavar="STAGE", help="stage of the plan")
    execute.add_argument("--part", type=int, default=0, metavar="N", help="part of the stage (0)")
    execute.add_argument("--site", type=pathlib.Path, metavar="FILE", help="YAML with workers and devices")
    execute.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    execute.add_argument("--site-json", help=argparse.SUPPRESS)
    return parser


def _verb(verbs: Any, name: str, command: Any, text: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=command)
    return parser


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


# ------------------------------------------------------------------------------------------- verbs


def _run(args: argparse.Namespace) -> int:
    from synthaug import checks, experiment, site
    from synthaug.launch import local
    from synthaug.launch.plan import make_plan, to_json
    from synthaug.rundir import RunDir

    _stop_on_signals()
    started = time.monotonic()
    study = experiment.with_absolute_paths(experiment.load(args.job, args.overrides))
    here = site.load(args.site)
    site.check(study, here, str(args.job))
    checks.check_inputs(study, str(args.job))
    run = RunDir(args.runs / study.name)
    if args.force and args.stage is None:
        raise RunError("--force: name the stage to redo with --stage; to redo everything, delete the run.")
    if args.until is not None and args.stage is not None:
        raise RunError("--until: --stage names one stage alone; give one of the two.")
    local.select(make_plan(study), args.stage, args.part, run, args.until)  # refuses an unknown stage or part
    run.create(study, shlex.join(["synthaug", "run", str(args.job), *args.overrides]))
    plan = make_plan(run.experiment())
    with run.hold():
        run.write_plan(to_json(plan))
        todo = local.select(plan, args.stage, args.part, run, args.until)
        if args.force:
            stale = local.forget(plan, run, args.stage, args.part)
            todo = [key for key in local.select(plan, None, None, run) if key[0] in stale]
        if todo:
            local.Executor(run, plan, here, todo, quiet=args.quiet, only=args.stage is not None).execute()
    if not args.quiet:
        _print_end(run, plan, todo, time.monotonic() - started)
    return 0


def _stop_on_signals() -> None:
    """Makes a stop request that comes before or after the work, too, one line and exit code 75."""

    def leave(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        raise Interrupted(f"stopped by {name}; nothing is lost. Run the same command again to go on.")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, leave)


def _print_end(run: Any, plan: Any, todo: list[Any], seconds: float) -> None:
    left = [s.name for s in plan.stages if not all(run.is_done(s.name, i) for i in range(len(s.parts)))]
    what = f"{len(todo)} jobs finished in {seconds:.0f} s" if todo else "nothing left to do"
    if left:
        print(f"{plan.name}: {what}; not finished yet: {', '.join(left)}")
    else:
        print(f"{plan.name}: {what}; report: {run.report / 'report.html'}")


def _plan(args: argparse.Namespace) -> int:
    from synthaug import experiment
    from synthaug.launch.plan import make_plan, render, to_json

    plan = make_plan(experiment.load(args.job, args.overrides))
    sys.stdout.write(to_json(plan) if args.json else render(plan))
    return 0


def _show(args: argparse.Namespace) -> int:
    from synthaug import config, experiment

    if args.schema:
        print(json.dumps(config.json_schema(experiment.Experiment), indent=1))
        return 0
    if args.job is None:
        raise RunError("show: name a job file, e.g. jobs/digits.yaml, or ask for --schema.")
    sys.stdout.write(config.render(experiment.load(args.job, args.overrides)))
    return 0


def _open(args: argparse.Namespace) -> Any:
    """Returns the run directory that NAME means: a name under --runs, or a path."""
    from synthaug.rundir import RunDir

    path = pathlib.Path(args.name)
    return RunDir(path if (path / "experiment.yaml").exists() else args.runs / args.name)


def _status(args: argparse.Namespace) -> int:
    from synthaug.launch.plan import make_plan
    from synthaug.launch.status import read_status, render_status

    run = _open(args)
    status = read_status(run, make_plan(run.experiment()))
    sys.stdout.write(json.dumps(status, indent=1) + "\n" if args.json else render_status(status))
    return 0


def _report(args: argparse.Namespace) -> int:
    from synthaug import site
    from synthaug.launch import local
    from synthaug.launch.plan import make_plan

    run = _open(args)
    plan = make_plan(run.experiment())
    trainings = {s.name for s in plan.stages if s.verb == "classify"}
    left = {name for name, _ in local.select(plan, None, None, run)} - {"report"}
    if unfinished := left - trainings if args.so_far else left:
        stages = ", ".join(sorted(unfinished))
        hint = "" if args.so_far or left - trainings else ", or report --so-far"
        raise RunError(f"{run.path}: not finished ({stages}); run the study first{hint}.")
    with run.hold():
        local.forget(plan, run, "report", None)
        ready = plan.without_waiting("report", left)
        local.Executor(run, ready, site.Site(), [("report", 0)], quiet=True, only=True).execute()
        if left:
            run.forget("report", 0)  # it is written again when all is finished
    print(run.report / "report.html")
    return 0


def _import(args: argparse.Namespace) -> int:
    from synthaug.stages.weights import import_weights

    sys.stdout.write(import_weights(args.family, args.folder, args.checkpoint))
    return 0


def _export_weights(args: argparse.Namespace) -> int:
    from synthaug.stages.weights import export_weights

    average, length = not args.params, args.ema_length
    sys.stdout.write(export_weights(args.checkpoint, args.folder, average=average, ema_length=length))
    return 0


def _exec(args: argparse.Namespace) -> int:
    from synthaug import config, site
    from synthaug.rundir import RunDir
    from synthaug.stages import work

    run = RunDir(args.run)
    if args.serve:
        here = config.build(site.Site, json.loads(args.site_json), "--site-json")
        # Libraries may print: only the protocol's own lines go to the real stdout.
        answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        work.serve(run, here, sys.stdin, answers)
        return 0
    if args.stage is None:
        raise RunError("exec: name the stage with --stage.")

    def send(message: dict[str, Any]) -> None:
        if message["kind"] == "say":
            print(message["text"], file=sys.stderr)

    work.execute(run, site.load(args.site), args.stage, args.part, send)
    return 0


if __name__ == "__main__":
    sys.exit(main())
