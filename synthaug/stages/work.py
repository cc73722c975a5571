"""Runs parts: one for `synthaug exec`, a stream of them for the workers of `synthaug run`."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from synthaug import commit, parallel
from synthaug.errors import Interrupted, RunError, SynthaugError
from synthaug.experiment import Experiment
from synthaug.launch.plan import Plan, make_plan
from synthaug.rundir import RunDir
from synthaug.site import Site
from synthaug.stages import (
    classify,
    collect,
    embed,
    encoder,
    features,
    filter,
    finetune,
    measure,
    prepare,
    report,
    sample,
    scan,
    score,
    sweep,
)
from synthaug.stages.job import Job, Send
from synthaug.train.preemption import StopFlag

# A write that failed for one of these reasons is the user's to mend, wherever it happened.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)

VERBS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "scan": scan.run,
    "prepare": prepare.run,
    "collect": collect.run,
    "embed": embed.run,
    "encoder": encoder.run,
    "features": features.run,
    "reference": features.reduce,
    "finetune": finetune.run,
    "sweep": sweep.run,
    "measure": measure.run,
    "choose": measure.choose,
    "sample": sample.run,
    "score": score.run,
    "filter": filter.run,
    "select": filter.choose,
    "classify": classify.run,
    "report": report.run,
}


def run_part(
    run: RunDir,
    experiment: Experiment,
    plan: Plan,
    site: Site,
    stage_name: str,
    part: int,
    stop: StopFlag,
    send: Send,
) -> None:
    """Runs one part to its done.json; does nothing if that is there already."""
    stage = plan.stage(stage_name)
    if stage is None:
        raise RunError(f"{run.path}: no stage {stage_name!r}; expected one of {_names(plan)}.")
    if not 0 <= part < len(stage.parts):
        raise RunError(f"{run.path}: {stage_name} has parts 0 to {len(stage.parts) - 1}; found {part}.")
    with run.hold(f"{stage_name}-{part}/lock"):
        if run.is_done(stage_name, part):
            return
        try:
            job = Job(run, experiment, site, stage_name, part, stage.parts[part].args, stop=stop, send=send)
            run.finish(stage_name, part, _attempt(job, stage.verb, plan.experiment))
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            raise commit.write_error(run.part_dir(stage_name, part), error) from None


def _attempt(job: Job, verb: str, experiment_sha256: str) -> dict[str, Any]:
    """Runs a stage and returns what done.json holds; the books of the attempt are closed either way."""
    started = time.time()
    try:
        result = VERBS[verb](job)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the disk may be what failed
            job.note(f"ended: {error}" if isinstance(error, SynthaugError) else traceback.format_exc())
            job.end("interrupted" if isinstance(error, Interrupted) else "failed")
        raise
    last = job.end("finished")
    return {
        "stage": job.stage,
        "part": job.part,
        "args": job.args,
        "result": result,
        "attempt": job.attempt,
        "started": round(started, 3),
        "seconds": round(time.time() - started, 3),
        "buckets": last["buckets"],
        "experiment": experiment_sha256,
        "versions": parallel.versions(),
    }


def _names(plan: Plan) -> str:
    return ", ".join(s.name for s in plan.stages)


def execute(run: RunDir, site: Site, stage: str, part: int, send: Send) -> None:
    """Runs one part in this process: what a scheduler's job does."""
    experiment = run.experiment()
    stop = StopFlag()
    stop.install()
    parallel.start(site, run.path / "cache")
    run_part(run, experiment, make_plan(experiment), site, stage, part, stop, send)


def serve(run: RunDir, site: Site, orders: TextIO, answers: TextIO) -> None:
    """Runs the parts named on `orders`, a JSON line each, and answers with JSON lines, until it closes."""
    _die_with_parent()
    stop = StopFlag()
    stop.install()
    experiment = run.experiment()
    plan = make_plan(experiment)
    parallel.start(site, run.path / "cache")
    last = 0.0

    def send(message: dict[str, Any]) -> None:
        nonlocal last
        if message["kind"] == "progress" and message["done"] < message["total"]:
            if time.monotonic() - last < 0.1:  # a person reads ten numbers a second at most
                return
            last = time.monotonic()
        print(json.dumps(message), file=answers, flush=True)

    for line in orders:
        order = json.loads(line)
        code, error = 0, ""
        try:
            run_part(run, experiment, plan, site, order["stage"], order["part"], stop, send)
        except SynthaugError as problem:
            code, error = problem.exit_code, str(problem)
        except Exception:
            code, error = 1, traceback.format_exc()
        _give_memory_back()
        send({"kind": "end", "code": code, "error": error})


def _give_memory_back() -> None:
    """Returns freed memory to the system: glibc keeps what the compiler used, up to a gigabyte."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _die_with_parent() -> None:
    """Asks Linux to kill this process when the one that started it dies, even by SIGKILL."""
    parent = os.getppid()
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)  # it died before the request
