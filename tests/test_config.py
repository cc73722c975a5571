"""The settings loader: what it accepts, what it refuses and in which words."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from synthaug import config, experiment
from synthaug.errors import ConfigError
from synthaug.experiment import Experiment

JOBS = sorted((pathlib.Path(__file__).parent.parent / "jobs").glob("*.yaml"))
DIGITS = next(p for p in JOBS if p.name == "digits.yaml")


def message(*overrides: str, path: pathlib.Path = DIGITS) -> str:
    with pytest.raises(ConfigError) as error:
        experiment.load(path, overrides)
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_every_job_resolves_to_its_golden_text(path: pathlib.Path) -> None:
    golden = pathlib.Path(__file__).parent / "golden" / f"show-{path.stem}.txt"
    found = config.render(experiment.load(path))
    assert found == golden.read_text(), (
        f"{path.name} resolves to other settings than before. If that is meant: "
        f"synthaug show {path} > tests/golden/{golden.name}, and look at the diff."
    )


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_every_job_fits_the_schema(path: pathlib.Path) -> None:
    schema = config.json_schema(Experiment)
    jsonschema.Draft202012Validator.check_schema(schema)
    tree = yaml.safe_load(path.read_text())
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(tree)) == []


def test_schema_refuses_an_unknown_key() -> None:
    validator = jsonschema.Draft202012Validator(config.json_schema(Experiment))
    tree = yaml.safe_load(DIGITS.read_text()) | {"sede": 1}
    assert any("sede" in e.message for e in validator.iter_errors(tree))


def test_unknown_key_names_the_near_one() -> None:
    text = message("cascade.base4.finetune.optimizer.learning_rte=1")
    assert "cascade.base4.finetune.optimizer.learning_rte" in text
    assert "did you mean 'learning_rate'?" in text


def test_wrong_type_says_what_was_expected() -> None:
    assert "seed = 'abc' is a text; expected an integer >= 0" in message("seed=abc")
    assert "expected true or false" in message("cascade.base4.diffusion.learned_variance=1")
    assert "is a text; expected a mapping" in message("cascade.base4.unet=big")
    assert "is true/false; expected an integer" in message("seed=true")


def test_out_of_range_says_the_range() -> None:
    text = message("cascade.base4.finetune.text_drop=1.5")
    assert "text_drop = 1.5 is out of range; expected a number >= 0 and <= 1" in text


def test_choice_lists_the_choices() -> None:
    text = message("cascade.base4.sampler.solver=dpm")
    assert "expected one of ddpm, ddim, dpmpp_2m" in text


def test_number_or_word() -> None:
    assert "or 'learned'" in message("cascade.base4.sampler.logvar_mix=often")
    assert "learned_variance = true" in message("cascade.base4.sampler.logvar_mix=learned")
    found = experiment.load(
        DIGITS, ["cascade.base4.sampler.logvar_mix=learned", "cascade.base4.diffusion.learned_variance=true"]
    )
    assert found.cascade["base4"].sampler.logvar_mix == "learned"


def test_exponent_without_a_dot_is_a_number() -> None:
    # PyYAML reads 1e-4 as the text "1e-4".
    found = experiment.load(DIGITS, ["cascade.base4.finetune.optimizer.learning_rate=1e-4"])
    assert found.cascade["base4"].finetune.optimizer.learning_rate == 1e-4
    found = experiment.load(
        DIGITS,
        [
            "cascade.base4.finetune.num_steps=1e3",
            "cascade.base4.finetune.saving.keep_steps=[]",
            "sweep.phases={}",
        ],
    )
    assert found.cascade["base4"].finetune.num_steps == 1000


def test_missing_file_suggests_a_neighbour() -> None:
    text = message(path=DIGITS.parent / "digit.yaml")
    assert "no such file" in text
    assert "digits.yaml?" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds empty; expected a mapping"),
        ("- 1\n", "holds a list"),
        ("a: [1\n", "not YAML in line"),
        ("[a]: b\n", "a key must be a word"),
        ("a: 2001-99-99\n", "not YAML"),
        ("a: !!int x\n", "not YAML"),
        ("a: " + "[" * 3000, "not YAML"),
        ("name: a\nname: b\n", "key 'name' stands twice, in lines 1 and 2"),
        ("name: &a\n  x: *a\n", "recursive"),
        ("a: !!python/object:os.system x\n", "not YAML"),
        ("name: x\n", "is missing; state it"),
    ],
)
def test_bad_files(tmp_path: pathlib.Path, text: str, words: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    assert words in message(path=path)


def test_binary_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    assert "cannot be read as text" in message(path=path)


def test_cascade_cycle_and_unknown_model() -> None:
    assert "form a cycle" in message("cascade.base4.low_res=sr8")
    assert "unknown model; expected one of base4, sr8" in message("cascade.sr8.low_res=base9")
    assert "expected exactly one model without low_res" in message("cascade.sr8.low_res=''")


def test_unknown_stage_and_doubled_stage() -> None:
    assert "did you mean 'classify'?" in message("stages=[score, clasify]")
    assert "stages: a stage stands twice" in message("stages=[score, score]")


def test_settings_that_do_not_fit_each_other() -> None:
    assert "does not divide by 8" in message("cascade.base4.unet.channel_mult=[1,2,2,4]")
    assert "is no level" in message("cascade.base4.unet.attention_resolutions=[8]")
    assert "does not divide 32 channels" in message("cascade.base4.unet.norm_groups=7")
    assert "multiple of base4's 4 px" in message("cascade.sr8.resolution=10")
    assert "checkpoint 1234 is not kept" in message("sweep.phases.base.grid.checkpoint=[1234]")
    assert "exceeds the 1024 images" in message("sweep.phases.enlarge.num_images=2000")
    assert "has no low-resolution input" in message("sweep.phases.base.grid.aug_level=[0.1]")
    assert "5 copies of 1442 exceed the 5768 images of generated-8; raise sample.copies" in message(
        "classify.copies=[5]"
    )
    assert "expected one of real, generated, real+generated" in message("classify.mixes=[fake]")
    assert "classify.seeds holds 0 twice" in message("classify.seeds=[0, 0]")
    assert "guidance_weight holds 1.0 twice" in message("sweep.phases.base.grid.guidance_weight=[1, 1]")
    assert "classify.copies is empty" in message("classify.copies=[]")
    assert "put {} where the class name goes" in message("prompts.template=abc")
    assert "there is no cascade: name the sides to prepare" in message("cascade={}")
    assert "patch_size = 3 does not divide 8 px" in message("classify.models.vit.patch_size=3")
    assert "name = '../x'" in message("name=../x")
    assert "choose = cas needs cas_steps" in message("sweep.phases.base.choose=cas")


def test_override_syntax() -> None:
    assert "expected key.sub=value" in message("seed")
    assert "seed is a number, it has no keys" in message("seed.x=1")
    assert "is not YAML" in message("name=[")
    assert "is not YAML" in message("name=" + "[" * 3000)
    assert "is not YAML" in message("seed=" + "9" * 5000)
    assert "out of range" in message("seed=99999999999999")


def test_round_trip_through_yaml() -> None:
    found = experiment.load(DIGITS)
    tree = yaml.safe_load(yaml.safe_dump(config.to_tree(found)))
    assert experiment.parse(tree, "again") == found


def test_comparison_names_each_differing_key() -> None:
    one = experiment.load(DIGITS)
    two = experiment.load(DIGITS, ["seed=3", "classify.seeds=[1]"])
    assert config.compare(one, two) == [
        "classify.seeds: [0, 1, 2] on disk, [1] now",
        "seed: 0 on disk, 3 now",
    ]


def _knobs(cls: type, key: str = "") -> list[tuple[str, dataclasses.Field]]:
    hints = __import__("typing").get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        name = f"{key}.{field.name}" if key else field.name
        found += (
            _knobs(hints[field.name], name)
            if dataclasses.is_dataclass(hints[field.name])
            else [(name, field)]
        )
    return found


def test_every_knob_is_documented() -> None:
    for cls in (Experiment, experiment.Model, experiment.Phase, experiment.Classifier):
        for name, field in _knobs(cls):
            assert field.metadata["doc"], name


values = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(sorted(config.flatten(config.to_tree(experiment.load(DIGITS)))))


@given(key=keys, value=values)
def test_any_value_is_taken_or_refused_in_one_line(key: str, value: object) -> None:
    try:
        found = experiment.load(DIGITS, [f"{key}={json.dumps(value)}"])
    except ConfigError as error:
        assert "\n" not in str(error)
        assert str(DIGITS) in str(error)
    else:
        assert experiment.parse(config.to_tree(found), "again") == found


@given(st.text(max_size=30))
def test_any_override_text_is_taken_or_refused_in_one_line(text: str) -> None:
    try:
        experiment.load(DIGITS, [text])
    except ConfigError as error:
        assert str(DIGITS) in str(error)
