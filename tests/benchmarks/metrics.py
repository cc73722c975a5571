"""Measures the metrics at 2048 features: Frechet distance, streaming moments, precision to coverage, KID.

    python -m tests.benchmarks.metrics [--only frechet,moments,shares,kid] [--rounds 3] [--batch 64]
                                       [--rows 50000,1200000] [--images 10000,50000]

Every measurement is a process of its own, so that its peak memory is its own; sides that are compared take
turns, round by round. Features are made batch by batch and not timed. The Frechet distance stands against
the form that pytorch-fid and ADM's evaluator use, scipy.linalg.sqrtm of the product of both covariances;
moments against plain float64 sums of products in the same blocks (fast, but another number in another order);
precision to coverage against one float64 product per block, which is less than a float64 computation of them
needs. Memory is the process's peak (VmHWM), and its growth over what it held before. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent.parent
WIDTH = 2048
CASES = ("frechet", "moments", "shares", "kid")
LARGE = 20_000  # images from which on the plain product is not measured: it takes minutes


def _memory(key: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def _timed(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}, result


def _batches(count: int, batch: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Returns f32[batch,2048] until there are `count` rows: not negative, like pooled features."""
    rng = np.random.default_rng(seed)
    spread = np.geomspace(2.0, 0.02, WIDTH, dtype=np.float32)
    for first in range(0, count, batch):
        rows = rng.standard_normal((min(batch, count - first), WIDTH), dtype=np.float32)
        rows[:, 1:] += 0.5 * rows[:, :-1]
        yield np.abs(rows) * spread


def _table(count: int, seed: int) -> np.ndarray:
    table = np.empty((count, WIDTH), np.float32)
    for number, rows in enumerate(_batches(count, 4096, seed)):
        table[4096 * number : 4096 * number + len(rows)] = rows
    return table


def frechet(side: str, _: int, __: int) -> dict[str, Any]:
    """Returns the time of one distance between the fits of two sets of 10,000 rows."""
    import scipy.linalg

    from synthaug.metrics.fid import Gaussian, frechet_distance

    fits = []
    for seed in (0, 1):
        rows = _table(10_000, seed).astype(np.float64)
        fits.append(Gaussian(len(rows), rows.mean(axis=0) * (1 + 0.01 * seed), np.cov(rows.T)))
    a, b = fits

    def theirs() -> float:
        shift = a.mean - b.mean
        root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
        return float(shift @ shift + np.trace(a.covariance + b.covariance) - 2 * np.trace(root))

    taken, value = _timed((lambda: frechet_distance(a, b)) if side == "synthaug" else theirs)
    return {**taken, "value": value}


def moments(side: str, count: int, batch: int) -> dict[str, Any]:
    """Returns time and peak memory of summing `count` rows that come in batches."""
    from synthaug.metrics.moments import Sums

    before, spent = _memory("VmRSS"), {"seconds": 0.0, "cpu_seconds": 0.0}
    sums, waiting = Sums(WIDTH), []
    total, gram = np.zeros(WIDTH), np.zeros((WIDTH, WIDTH))

    def plain(rows: np.ndarray) -> None:
        waiting.append(rows)
        if batch * len(waiting) >= 4096:
            block = np.concatenate(waiting).astype(np.float64)
            total.__iadd__(block.sum(axis=0))
            gram.__iadd__(block.T @ block)
            waiting.clear()

    for rows in _batches(count, batch):
        taken, _ = _timed(lambda rows=rows: sums.add(rows) if side == "synthaug" else plain(rows))
        spent = {name: spent[name] + taken[name] for name in spent}
    taken, _ = _timed(lambda: sums.moments().gaussian() if side == "synthaug" else None)
    spent = {name: spent[name] + taken[name] for name in spent}
    peak = _memory("VmHWM")
    return {**spent, "rows_per_s": count / spent["seconds"], "peak": peak, "grown": peak - before}


def shares(side: str, count: int, _: int) -> dict[str, Any]:
    """Returns time and peak memory of all four shares of two sets, or of the products alone in float64."""
    from synthaug.metrics.neighbours import compare

    real, generated = _table(count, 0), _table(count, 1)
    before = _memory("VmRSS")

    def products() -> float:
        largest = 0.0
        for a, b in ((real, real), (generated, generated), (real, generated)):
            for i in range(0, count, 4096):
                left = a[i : i + 4096].astype(np.float64)
                for j in range(0, count, 4096):
                    largest = max(largest, float((left @ b[j : j + 4096].astype(np.float64).T).max()))
        return largest

    taken, value = _timed((lambda: vars(compare(real, generated, 3))) if side == "synthaug" else products)
    peak = _memory("VmHWM")
    return {**taken, "value": value, "peak": peak, "grown": peak - before}


def kid(_: str, count: int, __: int) -> dict[str, Any]:
    """Returns the time of 100 draws of 1000."""
    from synthaug.metrics.kid import kid_of_subsets

    a, b = _table(count, 0), _table(count, 1)
    taken, value = _timed(lambda: kid_of_subsets(a, b, subsets=100, size=1000, seed=0))
    return {**taken, "value": value}


def _run(case: str, side: str, size: int, batch: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.metrics", "--side", f"{case},{side},{size},{batch}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{case} {side} {size}: {done.stderr}")
    print(f"{case} {side} {size}: {done.stdout.strip()}", file=sys.stderr, flush=True)
    return json.loads(done.stdout)


def measure(case: str, sides: tuple[str, ...], size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the medians of each side, and how many times longer the last one takes than the first."""
    rounds = [[_run(case, side, size, options.batch) for side in sides] for _ in range(options.rounds)]
    result: dict[str, Any] = {"size": size}
    for place, side in enumerate(sides):
        runs = [row[place] for row in rounds]
        result[side] = {
            name: statistics.median(run[name] for run in runs) if isinstance(value, float | int) else value
            for name, value in runs[0].items()
        }
    for clock in ("seconds", "cpu_seconds"):
        ratios = [row[-1][clock] / row[0][clock] for row in rounds]
        result[f"{clock}_ratio"] = [min(ratios), statistics.median(ratios), max(ratios)]
    return result


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rows", default="50000,1200000")
    parser.add_argument("--images", default="10000,50000")
    parser.add_argument("--side", help="one measurement in this process: case,side,size,batch")
    options = parser.parse_args()
    if options.side:
        case, side, size, batch = options.side.split(",")
        work = {"frechet": frechet, "moments": moments, "shares": shares, "kid": kid}[case]
        print(json.dumps(work(side, int(size), int(batch))))
        return
    chosen, report = options.only.split(","), {"cores": os.cpu_count(), "features": WIDTH}
    if "frechet" in chosen:
        report["frechet"] = measure("frechet", ("synthaug", "scipy sqrtm"), 10_000, options)
    if "moments" in chosen:
        sizes = [int(size) for size in options.rows.split(",")]
        both = ("synthaug", "plain numpy")
        report["moments"] = [measure("moments", both, size, options) for size in sizes]
    if "shares" in chosen:
        sizes = [int(size) for size in options.images.split(",")]
        report["shares"] = [
            measure("shares", ("synthaug", "float64 products")[: 1 + (size < LARGE)], size, options)
            for size in sizes
        ]
    if "kid" in chosen:
        report["kid"] = measure("kid", ("synthaug",), 10_000, options)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
