"""Reading and writing public weights: formats, damage, misfits, memory, and the two verbs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import synthaug.weights
from synthaug import config, licences
from synthaug.__main__ import main
from synthaug.errors import ConfigError, DataError, SynthaugError
from synthaug.experiment import Diffusion, Network, Saving, UNet
from synthaug.models.functional import abstract
from synthaug.models.unet import build_unet
from synthaug.train import posthoc
from synthaug.train.checkpoint import Checkpoints, load_weights
from synthaug.weights import families, own, rules
from synthaug.weights.tensors import is_finite, open_tensors, write_tensors

ROOT = pathlib.Path(__file__).parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
IF = Network(
    unet=UNet(
        channels=32,
        channel_mult=(1.0, 2.0),
        num_res_blocks=(1,),
        attention_resolutions=(4,),
        head_dim=32,
        activation="gelu",
        text_channels=32,
        text_norm="group",
        text_pool_heads=4,
        attend_padding=True,
        null_text="empty",
    ),
    resolution=8,
    out_channels=6,
    text_width=16,
    text_length=77,
)
IF_DIFFUSION = Diffusion(num_timesteps=1000, learned_variance=True)
IMAGEN = dataclasses.replace(
    IF,
    unet=UNet(channels=16, channel_mult=(1.0, 2.0), num_res_blocks=(1,), head_dim=16, norm_groups=8),
    out_channels=3,
)


def random_params(network: Network, seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    shapes = abstract(build_unet(network))["params"]
    return jax.tree.map(
        lambda leaf: (
            (generator.normal(size=leaf.shape) * leaf.shape[0] ** -0.5).astype(np.float32)
            if leaf.shape
            else np.float32(1.0)
        ),
        shapes,
    )


def write_if(folder: pathlib.Path, params: dict[str, Any], shard_bytes: int = 10**9) -> pathlib.Path:
    folder.mkdir(parents=True)
    family = families.FAMILIES["deepfloyd-if"]
    families.write_unet(folder, family, IF, IF_DIFFUSION, params, shard_bytes)
    return folder


@pytest.fixture(scope="module")
def params() -> dict[str, Any]:
    return random_params(IF)


@pytest.fixture
def folder(tmp_path: pathlib.Path, params: dict[str, Any]) -> pathlib.Path:
    return write_if(tmp_path / "if" / "unet", params)


def assert_equal(a: Any, b: Any) -> None:
    a, b = rules.flatten(a), rules.flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        left, right = np.asarray(a[name]), np.asarray(b[name])
        assert left.shape == right.shape and left.dtype == right.dtype, name
        assert left.tobytes() == right.tobytes(), name


# ----------------------------------------------------------------------------------- rules and files


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 4),
    st.sampled_from([(), (1,), (1, 1)]),
    st.randoms(use_true_random=False),
)
def test_every_kind_of_rule_is_undone_bit_for_bit(outs, inputs, ones, random) -> None:
    def bits(shape: tuple[int, ...]) -> np.ndarray:  # any bits: NaN payloads and signed zeros, too
        data = bytes(random.randrange(256) for _ in range(4 * int(np.prod(shape, dtype=int))))
        return np.frombuffer(data, np.float32).reshape(shape)

    matrices = [(out, inputs, *ones) for out in outs]
    made = [
        rules.joined("a", [f"t{i}" for i in range(len(outs))], matrices),
        rules.joined("a", [f"t{i}" for i in range(len(outs))], [(out,) for out in outs]),
        rules.linear("a", "t", matrices[0]),
        rules.conv("a", "t", (outs[0], inputs, 3, 2)),
        rules.copy("a", "t", (inputs, outs[0])),
    ]
    for rule in made:
        theirs = [bits(shape) for shape in rule.shapes]
        for before, after in zip(theirs, rule.store(rule.load(theirs)), strict=True):
            assert before.shape == after.shape and before.tobytes() == after.tobytes()


def test_files_agree_with_the_safetensors_package(tmp_path) -> None:
    numpy_files = pytest.importorskip("safetensors.numpy")
    arrays = {
        "f32": np.arange(6, dtype=np.float32).reshape(2, 3),
        "f16": np.arange(4, dtype=np.float16),
        "scalar": np.full((), 3.0, np.float32),
        "empty": np.zeros((0, 2), np.float32),
        "i64": np.arange(3),
    }
    numpy_files.save_file(arrays, tmp_path / "theirs.safetensors", metadata={"a": "b"})
    there = open_tensors(tmp_path, "theirs")
    assert_equal({name: there.read(name) for name in arrays}, arrays)
    write_tensors(tmp_path, "ours", iter(arrays.items()))
    assert_equal(numpy_files.load_file(tmp_path / "ours.safetensors"), arrays)


@pytest.mark.parametrize("kind", ["fp16 variant", "bf16", "shards", "fp16 shards", "pipeline"])
def test_every_layout_of_a_folder_is_read(tmp_path, params, kind) -> None:
    folder = write_if(tmp_path / "unet", params, shard_bytes=100_000 if "shards" in kind else 10**9)
    expected, stem = params, "diffusion_pytorch_model"
    if kind in ("fp16 variant", "bf16"):
        half = np.float16 if kind == "fp16 variant" else ml_dtypes.bfloat16
        there = open_tensors(folder, stem)
        items = [(name, there.read(name).astype(half)) for name in there.stored]
        (folder / f"{stem}.safetensors").unlink()
        write_tensors(folder, f"{stem}.fp16" if half is np.float16 else stem, items)
        expected = jax.tree.map(lambda leaf: leaf.astype(half).astype(np.float32), params)
    if kind == "fp16 shards":
        index = folder / f"{stem}.safetensors.index.json"
        index.rename(folder / f"{stem}.safetensors.index.fp16.json")
    assert ("shards" in kind) == (len(list(folder.glob("*.safetensors"))) > 1)
    opened = families.read_unet(folder.parent if kind == "pipeline" else folder)
    assert opened.network == IF and opened.diffusion == IF_DIFFUSION and opened.licence == "deepfloyd-if"
    assert_equal(opened.params, expected)


# ------------------------------------------------------------------------------------------- damage


def table_of(file: pathlib.Path) -> tuple[dict[str, Any], bytes]:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_table(file: pathlib.Path, change: Any) -> None:
    table, rest = table_of(file)
    change(table, next(name for name in table if name != "__metadata__"))
    text = json.dumps(table).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + rest)


DAMAGE = {
    "empty": lambda f: f.write_bytes(b""),
    "7 bytes": lambda f: f.write_bytes(b"1234567"),
    "table cut off": lambda f: f.write_bytes(f.read_bytes()[:200]),
    "data cut off": lambda f: f.write_bytes(f.read_bytes()[:-1]),
    "data added": lambda f: f.write_bytes(f.read_bytes() + b"\0"),
    "absurd length": lambda f: f.write_bytes(b"\xff" * 8 + f.read_bytes()[8:]),
    "no JSON": lambda f: f.write_bytes(f.read_bytes().replace(b"{", b"<", 1)),
    "a list": lambda f: f.write_bytes(struct.pack("<Q", 2) + b"[]"),
    "a thousand brackets": lambda f: f.write_bytes(struct.pack("<Q", 50_000) + b"[" * 50_000),
    "entry is text": lambda f: with_table(f, lambda t, n: t.update({n: "x"})),
    "no offsets": lambda f: with_table(f, lambda t, n: t[n].pop("data_offsets")),
    "offsets out of range": lambda f: with_table(f, lambda t, n: t[n].update(data_offsets=[0, 10**12])),
    "offsets reversed": lambda f: with_table(f, lambda t, n: t[n].update(data_offsets=[8, 0])),
    "overlap": lambda f: with_table(f, lambda t, n: t.update(twin=dict(t[n]))),
    "negative shape": lambda f: with_table(f, lambda t, n: t[n].update(shape=[-1, 3])),
    "huge shape": lambda f: with_table(f, lambda t, n: t[n].update(shape=[10**30])),
    "unknown dtype": lambda f: with_table(f, lambda t, n: t[n].update(dtype="F8_E4M3")),
    "dtype is a list": lambda f: with_table(f, lambda t, n: t[n].update(dtype=["F32"])),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_clear_line(folder, damage) -> None:
    file = folder / "diffusion_pytorch_model.safetensors"
    DAMAGE[damage](file)
    with pytest.raises(DataError, match=r"diffusion_pytorch_model\.safetensors: ") as caught:
        families.read_unet(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_any_altered_byte_is_refused_or_harmless(tmp_path_factory, place, byte) -> None:
    folder = tmp_path_factory.mktemp("flip")
    write_tensors(folder, "m", [("a", np.zeros((2, 3), np.float32)), ("b", np.ones(5, np.float16))])
    data = bytearray((folder / "m.safetensors").read_bytes())
    data[place % len(data)] = byte
    (folder / "m.safetensors").write_bytes(data)
    with contextlib.suppress(DataError):
        there = open_tensors(folder, "m")
        assert all(there.read(name).shape == there.shape(name) for name in there.stored)


def test_a_damaged_index_is_one_clear_line(tmp_path, params) -> None:
    folder = write_if(tmp_path / "unet", params, shard_bytes=100_000)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    tree = json.loads(index.read_text())
    name, shard = next(iter(tree["weight_map"].items()))
    moved = folder / "moved"
    (folder / shard).rename(moved)
    with pytest.raises(DataError, match=f"shard {shard} .* is not there"):
        open_tensors(folder, "diffusion_pytorch_model")
    moved.rename(folder / shard)
    other = sorted(set(tree["weight_map"].values()) - {shard})[0]
    for places, message in (
        ({name: "../secret.safetensors"}, "no file name"),
        ({name: other}, f"{name} should be in {other}"),
        ({name: 3}, "weight_map"),
        ({}, "weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(DataError, match=message):
            open_tensors(folder, "diffusion_pytorch_model")
    index.write_text("{")
    with pytest.raises(DataError, match="no JSON"):
        open_tensors(folder, "diffusion_pytorch_model")


def test_pickles_are_not_loaded(folder) -> None:
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(DataError, match=r"diffusion_pytorch_model\.bin, a pickle.*safetensors.*convert"):
        families.read_unet(folder)


# ------------------------------------------------------------------------------------------ misfits


def rewrite(folder: pathlib.Path, change: Any) -> None:
    there = open_tensors(folder, "diffusion_pytorch_model")
    items = {name: there.read(name) for name in there.stored}
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    write_tensors(folder, "diffusion_pytorch_model", change(items).items())


MISFITS = {
    "missing": (
        lambda t: {n: a for n, a in t.items() if n != "conv_in.weight"},
        r"conv_in\.weight is missing, expected shape \[32, 3, 3, 3\]; .*incomplete",
    ),
    "extra": (
        lambda t: {**t, "more.down": np.zeros((2, 7), np.float32)},
        r"more\.down of shape \[2, 7\] is left over.*smaller",
    ),
    "LoRA beside": (
        lambda t: {**t, "unet.conv_in.lora_A.weight": np.zeros((2, 7), np.float32)},
        "LoRA files are not supported: merge them into the model first",
    ),
    "LoRA alone": (
        lambda t: {"unet.conv_in.lora.down.weight": np.zeros((2, 7), np.float32)},
        "is missing.*LoRA files are not supported: merge",
    ),
    "integers": (
        lambda t: {**t, "conv_in.weight": t["conv_in.weight"].astype(np.int32)},
        r"conv_in\.weight has dtype I32, expected one of F64, F32, F16, BF16; .*quantised",
    ),
    "NaN": (
        lambda t: {**t, "conv_in.bias": np.full(32, np.nan, np.float32)},
        r"\.safetensors: conv_in\.bias holds numbers that are not finite",
    ),
    "infinite f16": (
        lambda t: {**t, "conv_in.bias": np.full(32, -np.inf, np.float16)},
        r"conv_in\.bias holds numbers that are not finite",
    ),
    "f64 beyond f32": (
        lambda t: {**t, "conv_in.bias": np.full(32, 1e300)},
        r"conv_in\.bias holds numbers that are not finite",
    ),
    "misshapen": (
        lambda t: {**t, "conv_in.weight": np.zeros((32, 4, 3, 3), np.float32)},
        r"conv_in\.weight has shape \[32, 4, 3, 3\], expected \[32, 3, 3, 3\]; .*another size",
    ),
    "ema": (lambda t: {f"ema.{n}": a for n, a in t.items()}, r"'ema\.', as in an EMA copy"),
    "wrapped": (lambda t: {f"module.{n}": a for n, a in t.items()}, r"'module\.', as in a trainer's wrapper"),
    "T5": (
        lambda t: {"encoder.block.0.layer.0.SelfAttention.q.weight": np.zeros((2, 2), np.float32)},
        r"conv_in\.bias is missing, .*\[32\].*of shape \[2, 2\].*looks like a T5 encoder",
    ),
    "ADM": (
        lambda t: {"input_blocks.0.0.weight": np.zeros((2, 2), np.float32)},
        "looks like an ADM U-Net",
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_tensors_that_do_not_fit_are_one_error_with_a_cause(folder, kind) -> None:
    change, message = MISFITS[kind]
    rewrite(folder, change)
    with pytest.raises(DataError, match=message) as caught:
        families.read_unet(folder)
    assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_one_number_that_is_not_finite_is_found(dtype) -> None:
    largest = np.finfo(np.float32).max if dtype == np.float64 else ml_dtypes.finfo(dtype).max
    array = np.full((3, 200_000), largest, dtype)  # over several blocks
    assert is_finite(array) and is_finite(-array) and is_finite(np.zeros((0, 2), dtype))
    for value in (np.inf, -np.inf, np.nan):
        array[2, -1] = value
        assert not is_finite(array)


def test_a_file_of_lora_is_named_and_files_have_ordinary_permissions(tmp_path) -> None:
    before = os.umask(0o022)
    try:
        write_tensors(tmp_path, "pytorch_lora_weights", [("a", np.zeros(2, np.float32))])
        items = [(name, np.zeros(2, np.float32)) for name in "ab"]
        write_tensors(tmp_path / "..", f"{tmp_path.name}-sharded", items, shard_bytes=8)
    finally:
        os.umask(before)
    made = [*tmp_path.iterdir(), *tmp_path.parent.glob(f"{tmp_path.name}-sharded*")]
    assert len(made) == 4 and {path.stat().st_mode & 0o777 for path in made} == {0o644}
    with pytest.raises(DataError, match=r"pytorch_lora_weights\.safetensors; LoRA files are not supported"):
        open_tensors(tmp_path, "diffusion_pytorch_model")


def test_an_appended_byte_is_no_cut(folder) -> None:
    DAMAGE["data added"](folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(DataError, match=r"longer than the .* of its table") as caught:
        families.read_unet(folder)
    assert "cut off" not in str(caught.value)


@pytest.mark.parametrize("value", [0.95, 1.5, -0.5])
def test_settings_out_of_range_are_refused_by_name(folder, value) -> None:
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(tree | {"dropout": value}))
    with pytest.raises(ConfigError, match=rf"config\.json: unet\.dropout = {value} .*>= 0 and <= 0\.9\.$"):
        families.read_unet(folder)


def test_the_wrong_folder_is_named(tmp_path, folder) -> None:
    for name, tree, message in (
        ("t5", {"model_type": "t5"}, "T5 text encoder"),
        ("scheduler", {"_class_name": "DDPMScheduler"}, "describes DDPMScheduler"),
        ("list", [], "no mapping"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(tree))
        with pytest.raises(SynthaugError, match=message):
            families.read_unet(tmp_path / name)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"neither config\.json nor unet/config\.json"):
        families.read_unet(tmp_path / "none")
    with pytest.raises(DataError, match="no such folder"):
        families.read_unet(tmp_path / "absent")
    with pytest.raises(DataError, match="is a file"):
        families.read_unet(folder / "config.json")
    with pytest.raises(ConfigError, match=r"describes DeepFloyd IF.*expected adm"):
        families.read_unet(folder, family="adm")
    (folder / "config.json").write_text("{")
    with pytest.raises(DataError, match="no JSON"):
        families.read_unet(folder)


# --------------------------------------------------------------------------------- memory, sharding

MEMORY = """
import sys, pathlib
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from synthaug import parallel
from synthaug.weights import rules
from synthaug.weights.tensors import open_tensors

def status(key):
    text = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in text.splitlines() if line.startswith(key)).split()[1])

folder, half = pathlib.Path(sys.argv[1]), sys.argv[2]
there = open_tensors(folder, "m")
made = [rules.conv(n, n, there.shape(n)) if n.startswith("conv")
        else rules.linear(n, n, there.shape(n)) for n in there.stored if not n.endswith(("k", "v"))]
made = [r for r in made if not r.ours.endswith("q")] + [
    rules.joined(n, [n[:-1] + p for p in "qkv"], [there.shape(n[:-1] + p) for p in "qkv"])
    for n in there.stored if n.endswith("q")]
shapes = {}
for r in made:
    shape = r.load([np.empty(s, np.float32) for s in r.shapes]).shape
    shapes[r.ours] = jax.ShapeDtypeStruct(shape, np.float32)
size = 4 * sum(int(np.prod(s.shape)) for s in shapes.values())
place = None if half == "host" else parallel.shardings(shapes, shard_from=1000)
jax.block_until_ready(jax.numpy.ones(3) + 1)
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
params = rules.read_params(made, there, shapes, place)
print((status("VmHWM") - before) / size)
for r in made:
    expected = r.load([there.read(n) for n in r.theirs]).astype(np.float32)
    if place is not None:
        shards = params[r.ours].addressable_shards
        assert params[r.ours].sharding == place[r.ours] and len(shards) == 2
        assert shards[0].data.size < expected.size
    assert np.array_equal(np.asarray(params[r.ours]), expected), r.ours
"""


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_reading_needs_little_more_memory_than_the_parameters(tmp_path, dtype) -> None:
    generator = np.random.default_rng(0)
    names = {f"conv{i}": (256, 512, 3, 3) for i in range(16)} | {
        f"block{i}.{p}": (1024, 1024) for i in range(8) for p in "qkv"
    }
    noise = generator.normal(size=256 * 512 * 9).astype(dtype)
    items = [
        (name, np.roll(noise, i)[: int(np.prod(s))].reshape(s)) for i, (name, s) in enumerate(names.items())
    ]
    write_tensors(tmp_path, "m", items, shard_bytes=80_000_000)
    for place in ("host", "devices"):
        command = [sys.executable, "-c", MEMORY, str(tmp_path), place]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        share = float(done.stdout)
        assert 0.95 < share < 1.2, (place, share)


# ---------------------------------------------------------------------------------------- open_unet


def inputs(batch: int = 2, side: int = 8, length: int = 5) -> dict[str, Any]:
    generator = np.random.default_rng(1)
    return {
        "z_t": generator.normal(size=(batch, side, side, 3)).astype(np.float32),
        "t": np.array([0, 999][:batch], np.int32),
        "text": generator.normal(size=(batch, length, IF.text_width)).astype(np.float32),
    }


def test_open_unet_is_the_network_with_its_weights(folder, params) -> None:
    unet = synthaug.weights.open_unet(folder.parent)
    assert unet.config == IF and (unet.family, unet.licence) == ("deepfloyd-if", "deepfloyd-if")
    assert_equal(unet.params, params)
    given = inputs()
    out = unet(given["z_t"], given["t"], given["text"])
    cond = {"text": jnp.asarray(given["text"]), "text_mask": jnp.ones((2, 5), bool)}
    apply = jax.jit(build_unet(IF).apply)
    expected = apply({"params": params, "stats": {}}, given["z_t"], given["t"].astype(np.float32), cond)
    assert out.shape == (2, 8, 8, 6) and out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    traced = jax.eval_shape(unet, given["z_t"], given["t"], given["text"])  # it may stand inside jit
    assert (traced.shape, traced.dtype) == (out.shape, out.dtype)
    for change, message in (
        ({"text": None}, "text is missing.*encode the empty prompt"),
        ({"labels": np.array([1, 2], np.int32)}, "labels was given; this network takes text"),
        ({"low_res": given["z_t"]}, "low_res was given"),
        ({"aug_step": given["t"]}, "aug_step was given"),
        ({"text": given["text"][..., :8]}, r"text has shape \[2,5,8\]; expected \[2,L,16\]"),
        ({"text": given["text"][:1]}, r"text has shape \[1,5,16\]"),
        ({"t": np.array([0, 1000], np.int32)}, "t holds 1000; expected 0 to 999"),
        ({"t": np.array([0.0, 0.5], np.float32)}, "t is float32; expected integers"),
        ({"t": given["t"][:1]}, r"t has shape \[1\]; expected \[2\]"),
        ({"z_t": given["z_t"][..., :1]}, r"z_t has shape \[2,8,8,1\]"),
        ({"z_t": given["z_t"][:, :7]}, "multiples of 2"),
        ({"text": given["text"][:, :0]}, r"text has shape \[2,0,16\]; expected at least one token"),
        ({name: array[:0] for name, array in given.items()}, r"z_t .*\[0,8,8,3\]; expected at least one"),
    ):
        with pytest.raises(ConfigError, match=message):
            unet(**{**given, **change})
    with pytest.raises(ConfigError, match="compute = 'f16'"):
        synthaug.weights.open_unet(folder, compute="f16")


def test_a_small_low_res_image_is_enlarged_inside() -> None:
    from synthaug.diffusion.cascade import enlarge

    folder = FIXTURES / "adm_upsampler"
    unet, io = synthaug.weights.open_unet(folder), np.load(folder / "io.npz")
    given = {"z_t": io["x"], "t": io["t"], "labels": io["labels"], "low_res": io["low_res"]}
    out = unet(**given)
    np.testing.assert_allclose(out, io["y"], atol=1e-4 * np.abs(io["y"]).max())
    large = enlarge(jnp.asarray(io["low_res"]), (32, 32), "half_pixel")
    np.testing.assert_array_equal(unet(**{**given, "low_res": large}), out)
    for change, message in (
        ({"low_res": None}, "low_res is missing; this network enlarges images"),
        ({"labels": None}, "labels is missing"),
        ({"labels": np.array([0, 1, 7])}, "labels holds 7; expected 0 to 6"),
        ({"text": np.zeros((3, 2, 4), np.float32)}, "text was given; this network takes labels, low_res"),
        ({"low_res": io["low_res"][:, :7]}, r"low_res has shape \[3,7,8,3\].*divide.*32"),
        ({"low_res": io["low_res"][:, :4]}, "by the same number"),
        ({"low_res": np.zeros((3, 64, 64, 3))}, "divide"),
        ({"aug_step": io["t"]}, "aug_step was given"),
    ):
        with pytest.raises(ConfigError, match=message):
            unet(**{**given, **change})


# --------------------------------------------------------------------------- import and export-weights


def run(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def test_import_and_export_give_the_same_bits_and_the_licence_travels(
    tmp_path, folder, params, capsys
) -> None:
    checkpoint, back = tmp_path / "checkpoint", tmp_path / "back"
    code, out, err = run(capsys, "import", "deepfloyd-if", folder.parent, checkpoint)
    assert (code, err) == (0, "")
    held = licences.LICENCES["deepfloyd-if"]
    assert held.name in out and "Non-commercial" in out and f"{jax.tree.leaves(params)[0].size:,}" not in err
    stated = config.parse_yaml(out.partition("states:\n\n")[2], "out")
    unet = config.build(UNet, stated["cascade"]["NAME"]["unet"], "out")
    diffusion = config.build(Diffusion, stated["cascade"]["NAME"]["diffusion"], "out")
    assert (unet, diffusion) == (IF.unet, IF_DIFFUSION)
    assert licences.of_checkpoint(checkpoint) == "deepfloyd-if"
    weights, record = load_weights(checkpoint)
    assert_equal(weights["params"], params)
    assert config.build(Network, record["about"]["network"], "x") == IF
    code, out, err = run(capsys, "export-weights", checkpoint, back)
    assert (code, err) == (0, "") and held.terms in out
    stem = "diffusion_pytorch_model"
    theirs, ours = open_tensors(folder, stem), open_tensors(back, stem)
    assert_equal({n: theirs.read(n) for n in theirs.stored}, {n: ours.read(n) for n in ours.stored})
    card = (back / "README.md").read_text()
    assert held.name in card and held.terms in card and str(folder) in card and "license: other" in card
    kept = json.loads((back / "synthaug.json").read_text())
    assert kept["about"]["licence"] == "deepfloyd-if"
    again = tmp_path / "again"
    assert run(capsys, "import", "deepfloyd-if", back, again)[0] == 0
    assert load_weights(again)[1]["about"]["source"]["weights_sha256"] == kept["export"]["weights_sha256"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "back", "checkpoint", "if"]


def checkpoint_of(
    folder: pathlib.Path, network: Network, diffusion: Diffusion, states: dict[str, Any], **about: Any
) -> pathlib.Path:
    record = {
        "family": "synthaug",
        "licence": "none",
        "source": "scratch",
        "network": config.to_tree(network),
        "diffusion": config.to_tree(diffusion),
        **about,
    }
    saving = Saving(every=1)
    with contextlib.closing(Checkpoints(folder, saving, {}, warn=print, about=record)) as writer:
        writer.save(7, {"step": np.int32(7), "opt": {}, "stats": {}, **states}, {"val_loss": 0.25})
    return folder / "7"


def test_averaged_weights_are_exported_unless_the_last_are_asked_for(tmp_path, params, capsys) -> None:
    ema = random_params(IF, seed=1)
    step = checkpoint_of(tmp_path / "steps", IF, IF_DIFFUSION, {"params": params, "ema": ema})
    for words, name, expected in (([], "ema", ema), (["--params"], "last", params)):
        assert run(capsys, "export-weights", step, tmp_path / name, *words)[0] == 0
        opened = families.read_unet(tmp_path / name)
        # IF's architecture from random weights: IF's files, but nobody's licence
        assert (opened.family.key, opened.licence) == ("deepfloyd-if", "none")
        assert_equal(opened.params, expected)
    card = (tmp_path / "ema" / "README.md").read_text()
    assert "averaged weights after 7 training steps (val_loss 0.25)" in card and "random weights" in card
    assert "last weights after 7" in (tmp_path / "last" / "README.md").read_text()


def test_the_post_hoc_average_of_a_length_is_exported(tmp_path, params, capsys) -> None:
    run_dir, ema = tmp_path / "finetune-0", random_params(IF, seed=1)
    step = checkpoint_of(run_dir / "checkpoints", IF, IF_DIFFUSION, {"params": params, "ema": params})
    half = jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), ema)
    posthoc.write_snapshot(run_dir / "ema", 7, {"0.05": ema, "0.1": params})
    code, out, _ = run(capsys, "export-weights", step, tmp_path / "out", "--ema-length", 0.05)
    assert code == 0 and "averaged weights (ema_length 0.05) of step 7" in out
    assert_equal(families.read_unet(tmp_path / "out").params, half)
    facts = json.loads((tmp_path / "out" / "synthaug.json").read_text())["export"]
    assert facts["averaged"] == "ema_length 0.05"
    assert "averaged post hoc (ema_length 0.05) after 7" in (tmp_path / "out" / "README.md").read_text()
    target = tmp_path / "target"
    other = checkpoint_of(tmp_path / "x" / "steps", IF, IF_DIFFUSION, {"params": params, "ema": {}})
    for words, message in (
        ((step, target, "--ema-length", 0.05, "--params"), "exclude each other"),
        ((step, target, "--ema-length", 0), "ema_length = 0; expected more than 0"),
        ((step, target, "--ema-length", 0.25), "give lengths from"),
        ((other, target, "--ema-length", 0.05), "no snapshots of averages"),
        ((run_dir / "checkpoints", target), "is no checkpoint of synthaug (no digest.json); name one of its"),
        ((run_dir, target), "is no checkpoint of synthaug (no digest.json); name the folder of a step"),
    ):
        code, out, err = run(capsys, "export-weights", *words)
        assert (code, out) == (2, "") and message in err and err.count("\n") == 1, err
    posthoc.write_snapshot(run_dir / "ema", 7, {"0.05": {"w": np.zeros(2, np.float32)}})
    code, _, err = run(capsys, "export-weights", step, target, "--ema-length", 0.05)
    assert code == 2 and "does not fit" in err and not target.exists()


def test_a_job_from_labelled_weights_drops_no_text(tmp_path, capsys) -> None:
    code, out, _ = run(capsys, "import", "adm", FIXTURES / "adm64", tmp_path / "made")
    stated = config.parse_yaml(out.partition("states:\n\n")[2], "out")
    assert code == 0
    assert stated["cascade"]["NAME"]["finetune"] == {"init": str(tmp_path / "made"), "text_drop": 0}


def test_a_network_of_no_public_family_is_written_in_our_own_format(tmp_path, capsys) -> None:
    weights = random_params(IMAGEN)
    step = checkpoint_of(tmp_path / "steps", IMAGEN, Diffusion(), {"params": weights, "ema": {}})
    code, out, _ = run(capsys, "export-weights", step, tmp_path / "out")
    assert code == 0 and "synthaug's own" in out
    opened = families.read_unet(tmp_path / "out")
    assert (opened.network, opened.diffusion) == (IMAGEN, Diffusion())
    assert_equal(opened.params, weights)
    assert run(capsys, "import", "synthaug", tmp_path / "out", tmp_path / "in")[0] == 0
    assert_equal(load_weights(tmp_path / "in")[0]["params"], weights)
    with pytest.raises(ConfigError, match="network is missing"):
        own.read_config({"synthaug": "synthaug"}, "config.json")


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, folder, params, capsys) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("")
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    DAMAGE["data cut off"](damaged / "diffusion_pytorch_model.safetensors")
    bare = tmp_path / "bare"
    with contextlib.closing(Checkpoints(bare, Saving(), {}, warn=print)) as writer:
        writer.save(1, {"step": np.int32(1), "params": {"a": np.zeros(2)}, "ema": {}}, {})
    alien = checkpoint_of(tmp_path / "alien", IF, IF_DIFFUSION, {"params": params, "ema": {}}, licence="mine")
    before = sorted(tmp_path.iterdir())
    target = tmp_path / "target"
    for words, message in (
        (("import", "deepfloyd", folder, target), "did you mean 'deepfloyd-if'"),
        (("import", "adm", folder, target), "describes DeepFloyd IF"),
        (("import", "deepfloyd-if", tmp_path / "absent", target), "no such folder"),
        (("import", "deepfloyd-if", damaged, target), "cut off"),
        (("import", "deepfloyd-if", folder, taken), "exists and is not empty"),
        (("export-weights", tmp_path / "absent", target), "no such checkpoint"),
        (("export-weights", bare / "1", target), "does not say what network"),
        (("export-weights", alien, target), "licence 'mine' is unknown"),
        (("export-weights", alien, taken), ""),
    ):
        code, out, err = run(capsys, *words)
        assert (code, out) == (2, ""), err
        assert message in err and err.count("\n") == 1 and err.startswith("synthaug: ")
        assert sorted(tmp_path.iterdir()) == before


def test_a_pt_file_is_converted_where_torch_is(tmp_path, capsys) -> None:
    torch = pytest.importorskip("torch")
    source = FIXTURES / "adm64"
    there = open_tensors(source, "model")
    shutil.copy(source / "config.json", tmp_path)
    state = {name: torch.from_numpy(there.read(name)) for name in there.stored}
    torch.save(state, tmp_path / "64x64_diffusion.pt")
    assert run(capsys, "import", "adm", tmp_path / "64x64_diffusion.pt", tmp_path / "made")[0] == 0
    assert_equal(load_weights(tmp_path / "made")[0]["params"], families.read_unet(source).params)
    with pytest.raises(DataError, match=r"64x64_diffusion\.pt, a pickle.*synthaug import adm"):
        families.read_unet(tmp_path)
    torch.save({"run": print}, tmp_path / "code.pt")
    code, _, err = run(capsys, "import", "adm", tmp_path / "code.pt", tmp_path / "other")
    assert code == 2 and "torch refuses it" in err and err.count("\n") == 1
