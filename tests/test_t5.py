"""The T5 encoder, its public files, and the prompt bank that it fills."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from synthaug import experiment
from synthaug.checks.text import t5_problems
from synthaug.commit import sha256_file
from synthaug.errors import ConfigError, DataError, RunError
from synthaug.models.t5 import T5Config, build_t5, relative_buckets
from synthaug.stages.embed import PromptBank, encode, read_as
from synthaug.weights import rules as maps
from synthaug.weights import t5, write_t5
from synthaug.weights.tensors import open_tensors, write_tensors
from tests import study, tiny_t5

CONFIG = tiny_t5.CONFIG
IDS = np.random.default_rng(1).integers(0, CONFIG.vocab_size, (2, 12)).astype(np.int32)
MASK = (np.arange(12)[None, :] < np.array([[12], [5]])).astype(np.int32)
SETTINGS = experiment.TextEncoder(kind="t5", max_length=12, width=CONFIG.d_model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny_t5.write_folder(tmp_path_factory.mktemp("t5") / "encoder")


@pytest.fixture(scope="module")
def encoder(folder: pathlib.Path) -> t5.OpenT5:
    return t5.open_t5(folder)


def copied(folder: pathlib.Path, tmp_path: pathlib.Path, **config: object) -> pathlib.Path:
    """Returns a copy of the folder with other values in config.json."""
    copy = shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True)
    tree = json.loads((copy / "config.json").read_text()) | config
    tree = {key: value for key, value in tree.items() if value is not None}
    (copy / "config.json").write_text(json.dumps(tree))
    return copy


# ----------------------------------------------------------------------------------------- the encoder


def reference(params: dict[str, np.ndarray], ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The published formulas for one sequence, written down once more, in f64 and head by head."""
    p = {name: np.asarray(array, np.float64) for name, array in maps.flatten(params).items()}
    c, n = CONFIG, len(ids)

    def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.layer_norm_epsilon) * scale

    x = p["embedding"][ids]
    for i in range(c.num_layers):
        b = f"blocks/block{i}"
        q, k, v = np.split(norm(x, p[f"{b}/norm0/scale"]) @ p[f"{b}/qkv/kernel"], 3, axis=-1)
        heads = []
        for head in range(c.num_heads):
            cut = slice(head * c.d_kv, (head + 1) * c.d_kv)
            score = q[:, cut] @ k[:, cut].T
            for s in range(n):
                for t in range(n):  # 12 tokens are within the 16 distances with a bucket of their own, nearly
                    far = abs(s - t)
                    bucket = far if far < 8 else 8 + int(np.log(far / 8) / np.log(16) * 8)
                    score[s, t] += p["relative_bias"][bucket + 16 * (t > s), head]
            weight = np.exp(score - score.max(-1, keepdims=True)) * (mask != 0)
            heads.append(weight / weight.sum(-1, keepdims=True) @ v[:, cut])
        x = x + np.concatenate(heads, axis=-1) @ p[f"{b}/out/kernel"]
        gate, value = np.split(norm(x, p[f"{b}/norm1/scale"]) @ p[f"{b}/gate/kernel"], 2, axis=-1)
        gelu = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        x = x + (gelu * value) @ p[f"{b}/down/kernel"]
    return norm(x, p["norm/scale"])


def test_encoder_is_the_published_formula_at_padding_too(encoder: t5.OpenT5) -> None:
    out = np.asarray(encoder(IDS, MASK))
    assert out.dtype == np.float32 and out.shape == (2, 12, CONFIG.d_model)
    for row in range(2):
        expected = reference(encoder.params, IDS[row], MASK[row])
        np.testing.assert_allclose(out[row], expected, atol=1e-5 * np.abs(expected).max())


def test_padding_changes_no_token_and_nothing_but_padding_is_finite(encoder: t5.OpenT5) -> None:
    out = np.asarray(encoder(IDS, MASK))
    other = np.where(MASK == 1, IDS, (IDS + 7) % CONFIG.vocab_size).astype(np.int32)
    np.testing.assert_array_equal(np.asarray(encoder(other, MASK))[1, :5], out[1, :5])
    assert (np.asarray(encoder(other, MASK))[1, 5:] != out[1, 5:]).any()
    np.testing.assert_array_equal(np.asarray(encoder(IDS, MASK.astype(bool))), out)
    assert np.isfinite(np.asarray(encoder(IDS, np.zeros_like(MASK)))).all()


def test_bf16_is_close_and_comes_out_as_f32(folder: pathlib.Path, encoder: t5.OpenT5) -> None:
    low, full = t5.open_t5(folder, compute="bf16")(IDS, MASK), np.asarray(encoder(IDS, MASK))
    assert low.dtype == np.float32
    error = np.abs(np.asarray(low) - full).max() / np.abs(full).max()
    assert 1e-6 < error < 0.05


@pytest.mark.parametrize(("buckets", "far"), [(32, 128), (16, 64), (8, 20), (6, 7)])
def test_relative_buckets_are_symmetric_monotone_and_saturate(buckets: int, far: int) -> None:
    table = relative_buckets(3 * far, buckets, far)
    half = buckets // 2
    behind, before = table[:, 0], table[0]
    assert (before[1:] - half == behind[1:]).all() and table[0, 0] == 0
    assert (np.diff(behind) >= 0).all() and behind[: half // 2].tolist() == list(range(half // 2))
    assert behind.max() == half - 1 and (behind[far:] == half - 1).all()
    assert (table[1:, 1:] == table[:-1, :-1]).all()


def test_tokens_outside_the_vocabulary_and_odd_shapes_are_refused(encoder: t5.OpenT5) -> None:
    with pytest.raises(DataError, match=r"expected 0\.\.259"):
        encoder(IDS + 100, MASK)
    with pytest.raises(DataError, match="expected the same"):
        encoder(IDS, MASK[:, :5])
    with pytest.raises(DataError, match=r"expected 0\.\.259"):
        encoder(IDS.astype(np.int64) + 2**32, MASK)  # a plain cast to i32 would hide it
    for ids, mask in ((IDS[:0], MASK[:0]), (IDS[:, :0], MASK[:, :0])):
        with pytest.raises(ConfigError, match="at least one prompt of one token"):
            encoder(ids, mask)
    with pytest.raises(ConfigError, match="ids are float32; expected integers"):
        encoder(IDS.astype(np.float32), MASK)


def test_another_precision_is_refused(folder: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="open_t5: compute = 'f16'; expected f32 or bf16"):
        t5.open_t5(folder, compute="f16")


def test_weights_cut_over_two_devices_give_the_same_embeddings(
    folder: pathlib.Path, encoder: t5.OpenT5, tmp_path: pathlib.Path
) -> None:
    np.savez(tmp_path / "in.npz", ids=IDS, mask=MASK)
    code = (
        "import sys, jax, numpy as np; jax.config.update('jax_num_cpu_devices', 2)\n"
        "from synthaug import parallel; from synthaug.weights.t5 import open_t5\n"
        "encoder = open_t5(sys.argv[1], sharding=lambda shapes: parallel.shardings(shapes, 64))\n"
        "kernel = encoder.params['blocks']['block0']['gate']['kernel']\n"
        "shards = [shard.data.size for shard in kernel.addressable_shards]\n"
        "given = np.load(sys.argv[2])\n"
        "np.savez(sys.argv[3], out=encoder(given['ids'], given['mask']), share=max(shards) / kernel.size)\n"
    )
    line = [sys.executable, "-c", code, folder, tmp_path / "in.npz", tmp_path / "out.npz"]
    done = subprocess.run(
        line, capture_output=True, text=True, cwd=study.ROOT, env=study.ENVIRONMENT, check=False
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "out.npz")
    assert found["share"] == 0.5
    np.testing.assert_allclose(found["out"], np.asarray(encoder(IDS, MASK)), atol=1e-5)


# ------------------------------------------------------------------------------------------- the files


def test_writing_gives_back_the_same_bits(folder: pathlib.Path, encoder: t5.OpenT5) -> None:
    tensors = open_tensors(folder, t5.FILE)
    written = dict(maps.write_params(t5.rules(encoder.config), encoder.params))
    assert written.keys() == tensors.stored.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array.view(np.uint32), tensors.read(name).view(np.uint32))
    config = t5.write_config(encoder.config)
    assert t5.read_config(json.loads(json.dumps(config)), "x") == encoder.config == CONFIG


def test_an_encoder_is_written_whole_or_not_at_all(
    folder: pathlib.Path, encoder: t5.OpenT5, tmp_path: pathlib.Path
) -> None:
    tuned = dataclasses.replace(encoder, params=jax.tree.map(lambda leaf: 2 * leaf, encoder.params))
    write_t5(tmp_path / "new", tuned)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["config.json", "model.safetensors"]
    again = t5.open_t5(tmp_path / "new")
    assert again.config == encoder.config
    before, after = maps.flatten(tuned.params), maps.flatten(again.params)
    assert all(np.array_equal(before[name], after[name]) for name in before | after)
    with pytest.raises(RunError, match="exists and is not empty"):
        write_t5(tmp_path / "new", encoder)
    for wrong in ({"embedding": encoder.params["embedding"]}, {**encoder.params, "more": np.zeros(2)}):
        with pytest.raises(ConfigError, match="write_t5: "):
            write_t5(tmp_path / "other", dataclasses.replace(encoder, params=wrong))
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("names", [t5._TABLES[:1], t5._TABLES[1:], t5._TABLES])
def test_the_table_may_have_either_name_or_both(
    folder: pathlib.Path, encoder: t5.OpenT5, tmp_path: pathlib.Path, names: tuple[str, ...]
) -> None:
    copy = copied(folder, tmp_path)
    (copy / "model.safetensors").unlink()
    more = {"lm_head.weight": np.zeros((3, 2), np.float32), "decoder.block.0.x": np.zeros(2, np.float32)}
    items = dict(maps.write_params(t5.rules(CONFIG, names), encoder.params)) | more
    write_tensors(copy, t5.FILE, items.items(), shard_bytes=20_000)
    assert len(t5.weight_files(copy)) > 1
    np.testing.assert_array_equal(np.asarray(t5.open_t5(copy)(IDS, MASK)), np.asarray(encoder(IDS, MASK)))


def test_two_tables_that_differ_are_refused(
    folder: pathlib.Path, encoder: t5.OpenT5, tmp_path: pathlib.Path
) -> None:
    copy = copied(folder, tmp_path)
    (copy / "model.safetensors").unlink()
    items = dict(maps.write_params(t5.rules(CONFIG, t5._TABLES), encoder.params))
    items["encoder.embed_tokens.weight"] = items["encoder.embed_tokens.weight"] + 1
    write_tensors(copy, t5.FILE, items.items())
    with pytest.raises(DataError, match=r"embed_tokens.weight differs from shared.weight"):
        t5.open_t5(copy)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"model_type": "umt5"}, ConfigError, "model_type = 'umt5'; expected 't5'"),
        ({"feed_forward_proj": "relu"}, ConfigError, "feed_forward_proj = 'relu'; expected 'gated-gelu'"),
        ({"feed_forward_proj": None}, ConfigError, "feed_forward_proj = 'relu'"),
        ({"feed_forward_proj": "gated-silu"}, ConfigError, "gated-silu"),
        ({"d_kv": None}, ConfigError, "has no d_kv"),
        ({"num_heads": True}, ConfigError, "num_heads = True"),
        ({"d_ff": "48"}, ConfigError, "d_ff = '48'"),
        ({"relative_attention_num_buckets": 7}, ConfigError, "expected an even number"),
        ({"num_layers": 3}, DataError, r"block\.2.* is missing"),
        ({"num_layers": 1}, DataError, "is left over"),
        ({"d_ff": 64}, DataError, r"has shape \[48, 32\], expected \[64, 32\]"),
    ],
)
def test_another_model_is_one_clear_error(
    folder: pathlib.Path, tmp_path: pathlib.Path, changes: dict[str, object], error: type, text: str
) -> None:
    copy = copied(folder, tmp_path, **changes)
    with pytest.raises(error, match=text) as found:
        t5.open_t5(copy)
    assert str(copy) in str(found.value) and "\n" not in str(found.value)


def test_published_sizes_count_as_published() -> None:
    """Counted by hand from google/t5-v1_1-xxl's config.json; nothing is allocated."""
    xxl = T5Config(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
    shapes = maps.flatten(jax.eval_shape(build_t5(xxl).init, jax.random.PRNGKey(0))["params"])
    table, block = 32128 * 4096, 4 * 4096 * 4096 + 3 * 4096 * 10240 + 2 * 4096
    assert sum(int(np.prod(s.shape)) for s in shapes.values()) == table + 24 * block + 32 * 64 + 4096


# -------------------------------------------------------------------------------------- the prompt bank


def quietly(done: int, total: int) -> None:
    assert 0 <= done <= total


def test_prompts_are_cleaned_encoded_and_counted(folder: pathlib.Path, encoder: t5.OpenT5) -> None:
    settings = dataclasses.replace(SETTINGS, path=str(folder))
    names = ["Zero", "kite (bird of prey)", "eastern hog-nosed snake", *tiny_t5.NAMES[-9:], "x y", "one two"]
    encoded = encode(settings, [*names, ""], quietly)
    assert encoded.text.shape == (len(names) + 1, 12, CONFIG.d_model) and encoded.text.dtype == np.float32
    read = read_as(settings, [*names, ""])
    assert read[:2] == ["zero", "kite bird of prey"] and read[-1] == ""
    ids = np.zeros((1, 12), np.int32)
    ids[0, 0] = 1
    null = np.asarray(encoder(ids, (ids == 1).astype(np.int32)))[0]
    np.testing.assert_allclose(encoded.text[-1], null, atol=1e-6)
    assert encoded.mask[-1].tolist() == [True] + [False] * 11
    cut = [text for text in encoded.warnings if "hog-nosed" in text]
    assert cut and "of which 12 are encoded" in cut[0]
    assert encoded.encoder["model.safetensors"] == sha256_file(folder / "model.safetensors")
    assert encoded.encoder.keys() == {"config.json", "model.safetensors", "spiece.model"}
    # An embedding depends on its prompt alone, not on what else is in the bank.
    alone = encode(settings, [names[1]], quietly)
    np.testing.assert_array_equal(alone.text[0], encoded.text[1])
    unclean = dataclasses.replace(settings, clean=False)
    raw = encode(unclean, [names[1]], quietly)
    assert read_as(unclean, [names[1]]) == ["kite (bird of prey)"] and (raw.text != alone.text).any()


def test_null_text_is_zeros_or_the_encoded_empty_prompt() -> None:
    settings = experiment.TextEncoder(max_length=8, width=16)
    encoded = encode(settings, ["zero", ""], quietly)
    one = np.ones(1, np.int32)
    bank = PromptBank(
        ("zero",), one - 1, one, encoded.text[:1], encoded.mask[:1], encoded.text[1], encoded.mask[1]
    )
    text, mask = bank.null(experiment.UNet(channels=8, null_text="zeros"))
    assert text.shape == (8, 16) and not text.any() and mask.shape == (8,) and not mask.any()
    text, mask = bank.null(experiment.UNet(channels=8, null_text="empty"))
    assert text.any() and mask.tolist() == [True] + [False] * 7


def test_a_folder_is_checked_without_reading_weights(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert t5_problems(str(folder), SETTINGS) == []
    pipeline = tmp_path / "pipeline"
    shutil.copytree(folder, pipeline / "text_encoder")
    (pipeline / "tokenizer").mkdir()
    (pipeline / "text_encoder" / "spiece.model").rename(pipeline / "tokenizer" / "spiece.model")
    assert t5_problems(str(pipeline), SETTINGS) == []
    assert encode(dataclasses.replace(SETTINGS, path=str(pipeline)), ["two"], quietly).mask.sum() > 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda f: shutil.rmtree(f), "is no folder"),
        (lambda f: (f / "config.json").unlink(), "no readable config.json"),
        (lambda f: (f / "config.json").write_text("{"), "no readable config.json"),
        (lambda f: (f / "config.json").write_text('{"model_type": "clip_text_model"}'), "clip_text_model"),
        (lambda f: (f / "spiece.model").unlink(), "no spiece.model"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is not there"),
        (
            lambda f: (
                (f / "model.safetensors").rename(f / "m")
                and (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}')
            ),
            "b.safetensors is not there",
        ),
    ],
)
def test_what_is_wrong_with_a_folder(
    folder: pathlib.Path, tmp_path: pathlib.Path, change: object, text: str
) -> None:
    copy = copied(folder, tmp_path)
    change(copy)
    (problem,) = t5_problems(str(copy), SETTINGS)
    assert text in problem and "text_encoder.path" in problem
    with pytest.raises(ConfigError, match=r"text_encoder\.path"):
        encode(dataclasses.replace(SETTINGS, path=str(copy)), ["two"], quietly)


def test_a_width_that_is_not_the_encoders_names_both(folder: pathlib.Path) -> None:
    (problem,) = t5_problems(str(folder), dataclasses.replace(SETTINGS, width=64))
    assert "text_encoder.width = 64" in problem and "d_model = 32" in problem


def test_a_tokenizer_of_another_model_and_damaged_weights_are_refused(
    folder: pathlib.Path, encoder: t5.OpenT5, tmp_path: pathlib.Path
) -> None:
    small = dataclasses.replace(CONFIG, vocab_size=100)
    other = tiny_t5.write_folder(tmp_path / "small", small)
    with pytest.raises(DataError, match="has 150 tokens; expected at most the 100"):
        encode(dataclasses.replace(SETTINGS, path=str(other)), ["two"], quietly)
    broken = copied(folder, tmp_path)
    (broken / "model.safetensors").unlink()
    items = dict(maps.write_params(t5.rules(CONFIG), encoder.params))
    items["encoder.final_layer_norm.weight"] = np.full(CONFIG.d_model, np.inf, np.float32)
    write_tensors(broken, t5.FILE, items.items())
    with pytest.raises(DataError, match="not finite"):
        encode(dataclasses.replace(SETTINGS, path=str(broken)), ["two"], quietly)
