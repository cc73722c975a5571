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

from synthaug import arguments, commit
from synthaug.errors import ConfigError, Interrupted, RunError, SynthaugError

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
    """Returns the parsed command line, with what the verb does in `command`."""
    commands = {
        "run": _run,
        "plan": _plan,
        "show": _show,
        "status": _status,
        "report": _report,
        "score": _score,
        "reference": _reference,
        "export": _export,
        "import": _import,
        "export-weights": _export_weights,
        "exec": _exec,
    }
    return arguments.parse(commands, argv)


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


def _stop_on_signals(rest: str = "nothing is lost. Run the same command again to go on.") -> None:
    """Makes a stop request that comes before or after the work, too, one line and exit code 75."""

    def leave(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        raise Interrupted(f"stopped by {name}; {rest}")

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
    left = {name for name, _ in local.select(plan, None, None, run)} - {"report"}
    needed = left & set(plan.upstream("collect"))  # a report needs to know the images
    if unfinished := needed if args.so_far else left:
        stages = ", ".join(sorted(unfinished))
        hint = "" if needed else ", or report --so-far"
        raise RunError(f"{run.path}: not finished ({stages}); run the study first{hint}.")
    with run.hold():
        local.forget(plan, run, "report", None)
        ready = plan.without_waiting("report", left)
        local.Executor(run, ready, site.Site(), [("report", 0)], quiet=True, only=True).execute()
        if left:
            run.forget("report", 0)  # it is written again when all is finished
    print(run.report / "report.html")
    return 0


def _score(args: argparse.Namespace) -> int:
    from synthaug.stages.request import request_of

    request = request_of(args)
    from synthaug import parallel
    from synthaug.stages import scorecard, scoring

    file = None if args.json in (None, "-") else pathlib.Path(args.json)
    if file:
        commit.check_writable(file)
    _stop_on_signals("nothing was written but what --cache keeps. Run the same command again.")
    parallel.start(request.site, request.cache)
    result = scoring.score_images(request, args.images, args.reference)
    text = scorecard.as_json(result)
    if file:
        commit.replace(file, text.encode())
    if not args.quiet:
        scorecard.show(result, sys.stderr if args.json == "-" else sys.stdout)
    if args.json == "-":
        sys.stdout.write(text)
    return 0


def _reference(args: argparse.Namespace) -> int:
    from synthaug.stages.request import request_of

    request = request_of(args)
    from synthaug import parallel
    from synthaug.stages import scoring

    if args.out.suffix != ".npz":
        raise ConfigError(f"reference: OUT = {args.out}; expected a name that ends in .npz; change it.")
    commit.check_writable(args.out)
    _stop_on_signals("nothing was written but what --cache keeps. Run the same command again.")
    parallel.start(request.site, request.cache)
    said = scoring.write_reference(request, args.images, args.out)
    if not args.quiet:
        sys.stdout.write(said)
    return 0


def _export(args: argparse.Namespace) -> int:
    from synthaug.stages.export import export_images

    said = export_images(args.set, args.out, args.format, args.num_images, quiet=args.quiet)
    if not args.quiet:
        sys.stdout.write(said)
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
