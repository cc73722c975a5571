"""The house rules that a machine can check: who imports what, who owns what, how long a file may be."""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "synthaug"
FILES = sorted(PACKAGE.rglob("*.py"))

# Modules that a login node runs: none of them may pull in jax or tensorflow, directly or not.
LIGHT = (
    "checks",
    "errors",
    "config",
    "experiment",
    "licences",
    "site",
    "rundir",
    "manifest",
    "markers",
    "prompts",
    "wordnet",
    "matlab",
    "commit",
    "attempts",
    "launch",
)
HEAVY = ("jax", "flax", "optax", "orbax", "grain", "tensorflow", "matplotlib", "pyarrow", "sklearn", "PIL")

# What each layer may import of the package.
ALLOWED = {
    "weights": {"weights", "models", "diffusion", "experiment", "errors", "config", "commit", "licences"},
    "diffusion": {"diffusion", "experiment", "errors", "rng", "config"},
    "models": {"models", "experiment", "errors", "rng", "config"},
    "metrics": {"metrics", "errors"},
    "data": {"data", "experiment", "errors", "config", "manifest", "markers", "commit", "matlab"},
    "train": {"train", "experiment", "errors", "rng", "commit"},
    "reporting": {"reporting", "metrics", "errors"},
    "launch": {"launch", *LIGHT, "console"},
}

OWNERS = {
    "orbax": {"train/checkpoint.py"},
    "submitit": {"launch/slurm.py"},
    "google.cloud": {"launch/tpu.py"},
    "tensorflow": {"data/images.py", "weights/"},
    "safetensors": {"weights/tensors.py", "train/posthoc.py"},
    "sentencepiece": {"models/tokenizer.py"},
    "ftfy": {"models/tokenizer.py"},
    "tensorboardX": {"stages/training.py"},
    "sklearn": {"data/sources/digits.py"},
    "array_record": {"data/shards.py", "data/writing.py"},
    "flax": {"models/"},
}
TEXT_OWNERS = {
    "jax.random.key(": {"rng.py"},
    "nnx.split(": {"models/functional.py"},
    "nnx.merge(": {"models/functional.py"},
    "make_mesh(": {"parallel.py"},
    "os.environ": {"parallel.py", "launch/"},
}


def imports(path: pathlib.Path, top_level_only: bool = False) -> set[str]:
    """Returns the dotted names a file imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name(path: pathlib.Path) -> str:
    return str(path.relative_to(PACKAGE))


def own(imported: str) -> str | None:
    """Returns the layer of a name of this package: "synthaug.data.images.x" -> "data"."""
    parts = imported.split(".")
    return parts[1] if parts[0] == "synthaug" and len(parts) > 1 else None


@pytest.mark.parametrize("path", FILES, ids=name)
def test_layers_import_downwards_only(path: pathlib.Path) -> None:
    layer = name(path).split("/")[0]
    if layer in ALLOWED:
        used = {own(i) for i in imports(path)} - {None}
        assert used <= ALLOWED[layer], f"{name(path)} imports {used - ALLOWED[layer]}"
    if layer not in ("stages", "__main__.py"):
        assert not {"stages"} & {own(i) for i in imports(path)}, f"{name(path)} imports stages"


def test_each_library_has_one_owner() -> None:
    for library, owners in OWNERS.items():
        users = {
            name(p) for p in FILES if any(i == library or i.startswith(f"{library}.") for i in imports(p))
        }
        strays = {u for u in users if not any(u.startswith(owner) for owner in owners)}
        assert not strays, f"{library} belongs to {owners}; found in {strays}"


def test_each_call_has_one_owner() -> None:
    for text, owners in TEXT_OWNERS.items():
        users = {name(p) for p in FILES if text in p.read_text()}
        strays = {u for u in users if not any(u.startswith(owner) for owner in owners)}
        assert not strays, f"{text} belongs to {owners}; found in {strays}"


def test_light_modules_load_nothing_heavy() -> None:
    modules = [f"synthaug.{m}" for m in LIGHT if m != "launch"]
    modules += [
        f"synthaug.launch.{p.stem}" for p in (PACKAGE / "launch").glob("*.py") if p.stem != "__init__"
    ]
    modules += ["synthaug.__main__", "synthaug.train.preemption", "synthaug.train.clock"]
    code = f"import sys, {', '.join(modules)}; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_and_no_function_is_too_long(path: pathlib.Path) -> None:
    text = path.read_text()
    # config.py is a table of settings more than code.
    limit = {"config.py": 420}.get(path.name, 320)
    assert len(text.splitlines()) <= limit, name(path)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno <= 75, f"{name(path)}: {node.name} is too long"


def test_no_assert_outside_tests() -> None:
    for path in FILES:
        asserts = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)]
        assert not asserts, f"{name(path)}:{asserts[0].lineno if asserts else 0}"


def test_every_knob_is_read() -> None:
    """A setting that nothing reads is a promise not kept."""
    from synthaug import experiment

    source = "".join(p.read_text() for p in FILES if p.parent.name != "experiment")
    source += (
        (PACKAGE / "experiment/study.py").read_text().partition("\ndef load")[2]
    )  # functions, not fields
    for cls in vars(experiment).values():
        if dataclasses.is_dataclass(cls) and isinstance(cls, type):
            for field in cls.__dataclass_fields__:
                assert f".{field}" in source or f'"{field}"' in source, (
                    f"{cls.__name__}.{field} is never read"
                )


def test_top_level_is_as_given() -> None:
    allowed = {
        "README.md",
        "pyproject.toml",
        "containers",
        "jobs",
        "synthaug",
        "slurm",
        "tpu",
        "tests",
        "CHANGELOG.md",
        "LICENSE",
    }
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False).stdout
    top = {line.split("/")[0] for line in listed.splitlines()}
    assert {t for t in top if not t.startswith(".")} <= allowed
