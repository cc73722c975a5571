"""What is finished, from the markers alone."""

from __future__ import annotations

from typing import Any

from synthaug.attempts import stage_times
from synthaug.launch.plan import Plan
from synthaug.rundir import RunDir


def read_status(run: RunDir, plan: Plan) -> dict[str, Any]:
    """Returns the state of a run as plain data: parts finished per stage, attempts, seconds, goodput."""
    stages: list[dict[str, Any]] = []
    for stage in plan.stages:
        done = [run.is_done(stage.name, part) for part in range(len(stage.parts))]
        times = stage_times(run, stage)
        stages.append(
            {
                "stage": stage.name,
                "parts": len(stage.parts),
                "done": sum(done),
                "missing": [part for part, finished in enumerate(done) if not finished],
                "attempts": times.attempts,
                "busy_seconds": round(times.busy_seconds, 1),
                "goodput": None if times.goodput is None else round(times.goodput, 3),
            }
        )
    total, done_parts = sum(s["parts"] for s in stages), sum(s["done"] for s in stages)
    return {
        "name": plan.name,
        "path": str(run.path),
        "done": done_parts,
        "parts": total,
        "finished": done_parts == total,
        "report": str(run.report / "report.html") if done_parts == total else None,
        "stages": stages,
    }


def render_status(status: dict[str, Any]) -> str:
    """Returns the state of a run as a table for people."""
    lines = [f"{status['name']}: {status['done']} of {status['parts']} jobs finished in {status['path']}"]
    width = max(len(s["stage"]) for s in status["stages"])
    lines.append(f"{'stage':<{width}}  {'done':>9}  {'attempts':>8}  {'busy s':>8}  goodput")
    for s in status["stages"]:
        goodput = "-" if s["goodput"] is None else f"{100 * s['goodput']:.0f} %"
        done = f"{s['done']}/{s['parts']}"
        lines.append(
            f"{s['stage']:<{width}}  {done:>9}  {s['attempts']:>8}  {s['busy_seconds']:>8.1f}  {goodput:>7}"
        )
    if status["report"]:
        lines.append(f"report: {status['report']}")
    return "\n".join(lines) + "\n"
