"""The images: locks that agree with pyproject.toml, files that every builder takes, one real image."""

from __future__ import annotations

import gzip
import hashlib
import importlib.machinery
import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import types

import pytest

from tests import image

ROOT = pathlib.Path(__file__).parent.parent
CONTAINERS = ROOT / "containers"
ACCELERATORS = ("cpu", "cuda", "tpu")


def load(name: str) -> types.ModuleType:
    """A script of containers/, as a module."""
    loader = importlib.machinery.SourceFileLoader(f"containers_{name}", str(CONTAINERS / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = writes
    return module


unpack, sbom, strip = load("unpack"), load("sbom"), load("strip")


def lock_of(accelerator: str) -> dict[str, tuple[str, set[str]]]:
    return sbom.read_lock((CONTAINERS / f"requirements.{accelerator}.txt").read_text())


# --- locks ---


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_lock_has_what_pyproject_asks_for(accelerator: str) -> None:
    packaging = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["build-system"]["requires"]
    wanted += project["project"]["optional-dependencies"].get(accelerator, [])
    lock = lock_of(accelerator)
    for text in wanted:
        requirement = packaging.Requirement(text)
        name = "tensorflow-cpu" if requirement.name == "tensorflow" else requirement.name
        assert name in lock, f"run containers/lock: {name} is not in requirements.{accelerator}.txt"
        assert requirement.specifier.contains(lock[name][0]), f"run containers/lock: {text}, {lock[name][0]}"


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_lock_has_hashes_and_no_hosts(accelerator: str) -> None:
    text = (CONTAINERS / f"requirements.{accelerator}.txt").read_text()
    for name, (version, hashes) in lock_of(accelerator).items():
        assert version and hashes, f"{name} has no hash"
    for line in text.splitlines()[1:]:
        package = r"[a-z0-9-]+==[A-Za-z0-9.+]+( ; [^\\]+)? \\"
        assert re.fullmatch(rf"{package}|    --hash=sha256:[0-9a-f]{{64}}( \\)?", line), line


def test_accelerators_share_every_version() -> None:
    cpu = lock_of("cpu")
    for accelerator in ("cuda", "tpu"):
        lock = lock_of(accelerator)
        assert {name: lock[name] for name in cpu} == cpu
    assert set(lock_of("tpu")) - set(cpu) == {"libtpu"}
    extra = set(lock_of("cuda")) - set(cpu)
    assert extra and all(name.startswith(("nvidia-", "jax-cuda")) for name in extra)


# --- Containerfiles ---


def instructions(accelerator: str) -> list[tuple[str, str]]:
    """Lines of a Containerfile without its comments: (instruction, rest)."""
    text = (CONTAINERS / f"Containerfile.{accelerator}").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_containerfile_keeps_the_rules(accelerator: str) -> None:
    lines = instructions(accelerator)
    assert lines[0] == ("ARG", "BASE_IMAGE=python:3.11-slim")
    assert [rest for word, rest in lines if word == "FROM"] == ["$BASE_IMAGE AS builder", "$BASE_IMAGE"]
    words = [word for word, _ in lines]
    assert set(words) <= {"ARG", "FROM", "ENV", "RUN", "COPY", "LABEL", "USER", "WORKDIR", "CMD"}, (
        "no ENTRYPOINT, ADD"
    )
    assert [rest for word, rest in lines if word == "USER"] == ["1000:1000"]
    assert words.index("USER") > max(at for at, word in enumerate(words) if word == "RUN")
    (command,) = [json.loads(rest) for word, rest in lines if word == "CMD"]
    assert command[0] == "/opt/venv/bin/python3", "by its absolute name, without a shell before it"
    for word, rest in lines:
        assert not re.search(r"https?:|curl|wget|git |apt|<<|--mount|/tmp", rest), rest
        assert word != "RUN" or "pip install" not in rest or "--no-deps" in rest
    installs = [rest for word, rest in lines if "pip install" in rest]
    assert len(installs) == 2 and "--require-hashes" in installs[0] and "--no-index" in installs[1]


def test_dependencies_and_code_are_layers_of_their_own() -> None:
    copies = [rest for word, rest in instructions("cpu") if word == "COPY" and "--from" in rest]
    assert copies == ["--from=builder /opt/venv /opt/venv", "--from=builder /opt/synthaug /opt/synthaug"]


def test_containerfiles_differ_in_the_accelerator_only() -> None:
    def neutral(accelerator: str) -> list[str]:
        lines = [" ".join(line) for line in instructions(accelerator)]
        return [line.replace(accelerator, "X").replace(" JAX_PLATFORMS=X", "") for line in lines]

    assert neutral("cpu") == neutral("cuda") == neutral("tpu")


def test_apptainer_definition_agrees_with_the_containerfile() -> None:
    text = (CONTAINERS / "synthaug.def").read_text().replace("{{ ACCELERATOR }}", "cpu")
    sections = dict(re.findall(r"(?m)^%(\w+)\n((?:(?!^%).*\n)*)", text))
    container = instructions("cpu")
    assert "BASE_IMAGE=python:3.11-slim" in sections["arguments"]

    copied = {
        source.strip("/") for line in sections["files"].split("\n") if line for source in line.split()[:1]
    }
    into_builder = [rest for word, rest in container if word == "COPY" and "--from" not in rest]
    expected = {source for rest in into_builder for source in rest.split()[:-1] if "wheels" not in source}
    assert copied == expected

    settings = set(re.findall(r"[A-Z_]+=\S+", sections["environment"]))
    declared = [rest for word, rest in container if word == "ENV"][1:]
    # Apptainer keeps the caller's home and the site's choice of devices.
    elsewhere = {"HOME=/cache", "JAX_PLATFORMS=cpu"}
    assert settings == set(re.findall(r"[A-Z_]+=\S+", " ".join(declared))) - elsewhere

    installs = [line.strip() for line in sections["post"].split("\n") if "pip install" in line]
    for mine, theirs in zip(installs, [rest for _, rest in container if "pip install" in rest], strict=True):
        assert mine.replace("requirements.txt", "requirements.cpu.txt") in theirs
    imports = re.search("'import jax.*'", [rest for word, rest in container if word == "RUN"][-1])
    assert imports is not None and imports[0] in sections["post"], "what fails at build"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["build"], "usage: containers/build"),
        (["build", "gpu"], "usage: containers/build"),
        (["build", "cpu", "--base"], "--base needs a value"),
        (["build", "cpu", "--fast"], "unknown option --fast"),
        (["build", "cpu"], "no podman, buildah or docker on PATH"),
        (["lock"], "no uv on PATH"),
    ],
)
def test_scripts_say_what_is_missing(argv: list[str], said: str, tmp_path: pathlib.Path) -> None:
    for tool in ("bash", "dirname", "env", "mktemp", "rm"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "/nowhere")
    command = [str(CONTAINERS / argv[0]), *argv[1:]]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode != 0 and said in done.stderr and done.stderr.count("\n") == 1


# --- unpack, sbom, strip ---


def layer(entries: list[tuple[str, str | None, str]]) -> bytes:
    """A layer of (name, content or link target or None for a folder, kind)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content, kind in entries:
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if kind == "file":
                data = (content or "").encode()
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                continue
            info.type = {"dir": tarfile.DIRTYPE, "hard": tarfile.LNKTYPE, "soft": tarfile.SYMTYPE}[kind]
            info.linkname = content or ""
            tar.addfile(info)
    return out.getvalue()


def archive(path: pathlib.Path, layers: list[bytes]) -> pathlib.Path:
    """An OCI archive as buildah writes it: the first layer gzipped, the others not."""
    blobs: dict[str, bytes] = {}

    def add(data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return f"sha256:{digest}"

    packed = [gzip.compress(layers[0], mtime=0), *layers[1:]]
    kinds = ["tar+gzip"] + ["tar"] * (len(layers) - 1)
    media = "application/vnd.oci.image.layer.v1."
    described = [
        {"digest": add(data), "mediaType": media + kind} for data, kind in zip(packed, kinds, strict=True)
    ]
    labels = {"synthaug.accelerator": "cpu", "org.opencontainers.image.version": "1"}
    config = add(json.dumps({"config": {"Labels": labels}}).encode())
    manifest = add(json.dumps({"config": {"digest": config}, "layers": described}).encode())
    blobs["index.json"] = json.dumps({"manifests": [{"digest": manifest}]}).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in blobs.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


DPKG = "Package: libc6\nStatus: install ok installed\nVersion: 2.36\nDescription: C\n more: text\n\n"


@pytest.fixture
def small_archive(tmp_path: pathlib.Path) -> pathlib.Path:
    base = layer(
        [
            ("./etc", None, "dir"),
            ("./etc/a", "old", "file"),
            ("etc/twin", "etc/a", "hard"),
            ("etc/gone", "x", "file"),
            ("opt", None, "dir"),
            ("opt/deep", None, "dir"),
            ("opt/deep/below", "x", "file"),
            ("lib", None, "dir"),
            ("lib/hidden", "x", "file"),
            ("bin", "usr/bin", "soft"),
            ("var/lib/dpkg/status", DPKG, "file"),
        ]
    )
    top = layer(
        [
            ("etc/a", "newer", "file"),
            ("etc/.wh.gone", "", "file"),
            ("opt/deep/.wh..wh..opq", "", "file"),
            ("opt/deep/above", "y", "file"),
            ("lib", "usr/lib", "soft"),
            ("opt/pair", "opt/deep/above", "hard"),
        ]
    )
    return archive(tmp_path / "small.oci.tar", [base, top])


def tree_of(folder: pathlib.Path) -> dict[str, str]:
    """Files and links under a folder with what is in them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = path.read_text()
    return found


def test_unpack_lays_the_layers_over_each_other(small_archive: pathlib.Path, tmp_path: pathlib.Path) -> None:
    # a process of its own: it forks, and jax may have threads in this one
    script = [sys.executable, str(CONTAINERS / "unpack"), str(small_archive), "--dir", str(tmp_path / "root")]
    first = subprocess.run([*script, "--mount-point", "/scratch/me"], capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "root" / "scratch" / "me").is_dir()
    with tarfile.open(small_archive) as tar:
        digest = unpack.Image(tar).digest
    assert tree_of(tmp_path / "root") == {
        ".image-digest": f"{digest}\n",
        "bin": "-> usr/bin",
        "etc/a": "newer",
        "etc/twin": "old",
        "lib": "-> usr/lib",
        "opt/deep/above": "y",
        "opt/pair": "y",
        "var/lib/dpkg/status": DPKG,
    }
    assert os.path.samefile(tmp_path / "root/opt/pair", tmp_path / "root/opt/deep/above")
    again = subprocess.run(script, capture_output=True, text=True)
    assert again.returncode != 0 and "is there already" in again.stderr


def test_equal_archives_give_equal_streams(small_archive: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for name in ("one.tar", "two.tar"):
        assert unpack.main([str(small_archive), "--tar", str(tmp_path / name)]) == 0
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        names = tar.getnames()
    assert len(names) == len(set(names)) and ".image-digest" in names


def test_other_files_are_no_archive(tmp_path: pathlib.Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    with pytest.raises(SystemExit, match=r"has no index.json: this is no OCI archive"):
        unpack.main([str(tmp_path / "x.tar"), "--describe"])


def test_bill_of_materials(
    small_archive: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unpack.main([str(small_archive), "--describe"])
    (tmp_path / "image.json").write_text(capsys.readouterr().out)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "jax_cuda12_pjrt-0.1-py3-none-any.whl").write_bytes(b"wheel")
    content = hashlib.sha256(b"wheel").hexdigest()
    argv = [str(tmp_path / name) for name in ("lock.txt", "wheels", "image.json")]

    (tmp_path / "lock.txt").write_text(f"# made\njax-cuda12-pjrt==0.1 \\\n    --hash=sha256:{content}\n")
    assert sbom.main(argv) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert [part["purl"] for part in document["components"]] == [
        "pkg:pypi/jax-cuda12-pjrt@0.1",
        "pkg:deb/debian/libc6@2.36",
    ]
    assert document["components"][0]["hashes"] == [{"alg": "SHA-256", "content": content}]

    (tmp_path / "lock.txt").write_text(f"jax-cuda12-pjrt==0.1 \\\n    --hash=sha256:{'0' * 64}\n")
    with pytest.raises(SystemExit, match="which the lock does not allow"):
        sbom.main(argv)
    (tmp_path / "lock.txt").write_text(f"rich==0.1 \\\n    --hash=sha256:{content}\n")
    with pytest.raises(SystemExit, match=r"no file of rich 0\.1"):
        sbom.main(argv)


def test_strip_keeps_what_is_imported(tmp_path: pathlib.Path) -> None:
    packages = tmp_path / "lib/python3.11/site-packages"
    for name in (
        "numpy/tests/test_a.py",
        "numpy/testing/__init__.py",
        "tensorflow/include/a.h",
        "clang/native/libclang.so",
    ):
        (packages / name).parent.mkdir(parents=True)
        (packages / name).write_text("x = 1\n")
    assert strip.main([str(tmp_path)]) == 0
    left = sorted(str(path.relative_to(packages)) for path in packages.rglob("*") if path.is_file())
    cached = f"numpy/testing/__pycache__/__init__.{sys.implementation.cache_tag}.pyc"
    assert left == ["numpy/testing/__init__.py", cached]


# --- the real thing ---


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_an_image_from_a_debian_base_runs() -> None:
    """Builds base and image, unpacks it and runs it as an ordinary user, read-only and without network."""
    if reason := image.missing():
        pytest.skip(reason)
    built = image.build()
    described = built.described
    assert described["unpacked_bytes"] <= 2.5e9
    assert described["labels"]["synthaug.lock.sha256"] == hash_of_lock("cpu")
    assert "libc6" in described["debian"]
    assert len(built.bill["components"]) == len(lock_of("cpu")) + len(described["debian"])
    assert (built.folder / ".image-digest").read_text().strip() == described["digest"]
    version = described["labels"]["org.opencontainers.image.version"]
    assert run_inside(built.folder, "--version").stdout.strip().endswith(version)
    assert "sample" in run_inside(built.folder, "plan", "/opt/synthaug/jobs/digits.yaml").stdout


def hash_of_lock(accelerator: str) -> str:
    return hashlib.sha256((CONTAINERS / f"requirements.{accelerator}.txt").read_bytes()).hexdigest()


def run_inside(root: pathlib.Path, *args: str) -> subprocess.CompletedProcess[str]:
    """What synthaug says in an unpacked image: user 1000, read-only, no network, no settings of ours."""
    script = """
        root=$1; shift
        mount --bind "$root" "$root"
        mount -t proc proc "$root/proc"
        mount --bind /dev/null "$root/dev/null"
        mount -o remount,bind,ro "$root"
        exec env -i PATH=/opt/venv/bin:/usr/sbin:/usr/bin:/bin PYTHONPATH=/opt/synthaug HOME=/cache \
            chroot --userspec=1000:1000 "$root" /opt/venv/bin/python3 -m synthaug "$@"
    """
    (root / "dev/null").touch()
    command = ["unshare", "--net", "--mount", "sh", "-ec", script, "run", str(root), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done
