"""The cpu image, built once from a base made here, for the tests that run something in it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import subprocess
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
CONTAINERS = ROOT / "containers"
BUILD = ROOT / "build"
TOOLS = ("mmdebstrap", "buildah", "unshare", "chroot")


def missing() -> str:
    """Why no image can be built here; empty if one can."""
    if os.geteuid() != 0:
        return "an image is built by root only"
    absent = [tool for tool in TOOLS if shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin") is None]
    return f"an image needs {', '.join(absent)} on PATH" if absent else ""


@dataclasses.dataclass(frozen=True)
class Image:
    """What containers/build wrote, and the same image as a folder."""

    archive: pathlib.Path
    folder: pathlib.Path
    described: dict[str, Any]
    bill: dict[str, Any]


@functools.cache
def build() -> Image:
    """The image of this very tree; minutes the first time, later only what has changed."""
    base, out = BUILD / "debian-base.tar", BUILD / "images"
    BUILD.mkdir(exist_ok=True)
    if not base.exists():
        partial = base.with_suffix(".partial.tar")
        subprocess.run([CONTAINERS / "debian-base", partial], check=True)
        partial.rename(base)
    command = [CONTAINERS / "build", "cpu", "--tool", "buildah", "--base", base, "--out", out, "--oci-only"]
    subprocess.run(command, check=True)
    (archive,) = out.glob("synthaug-cpu-*.oci.tar")
    stem = archive.name.removesuffix(".oci.tar")
    described = json.loads((out / f"{stem}.json").read_text())
    folder = BUILD / f"root-{described['digest'].removeprefix('sha256:')[:12]}"
    if not folder.exists():
        for old in BUILD.glob("root-*"):
            shutil.rmtree(old)
        subprocess.run([CONTAINERS / "unpack", archive, "--dir", folder], check=True)
    return Image(archive, folder, described, json.loads((out / f"{stem}.cdx.json").read_text()))
