"""Prompts hang on class keys, are read from the files that users have, and bad banks are refused."""

from __future__ import annotations

import io
import pathlib

import numpy as np
import pytest

from synthaug.errors import ConfigError
from synthaug.experiment import Prompts, TextEncoder
from synthaug.manifest import ClassEntry, ClassTable
from synthaug.matlab import read_mat
from synthaug.prompts import build_prompts, lint_names, prompt_problems, shared_prompts
from synthaug.stages.embed import check_prompts, read_as
from synthaug.wordnet import read_names

CRANES = ClassTable(
    (
        ClassEntry("n02012849", "crane", 1, 1),
        ClassEntry("n03126707", "crane", 1, 1),
        ClassEntry("n01440764", "tench", 1, 1),
    )
)
# Lines of the real file: three pairs of its first lemmas are equal, if capitals do not count.
MAPPING = """n01440764 tench, Tinca tinca
n02012849 crane
n02113186 Cardigan, Cardigan Welsh corgi
n02963159 cardigan
n03126707 crane
n03710637 maillot
n03710721 maillot, tank suit
n04356056 sunglasses, dark glasses, shades
"""
KEYS = [line.split()[0] for line in MAPPING.splitlines()]
UNIQUE = {"n03126707": "construction crane", "n02963159": "knitted cardigan", "n03710721": "tank suit"}


def table(keys: list[str]) -> ClassTable:
    return ClassTable(tuple(ClassEntry(key, f"folder {key}", 1, 1) for key in keys))


def write(folder: pathlib.Path, text: str | bytes, name: str = "names.txt") -> str:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(file)


# ------------------------------------------------------------------------------------------- the bank


def test_prompt_is_the_bare_name():
    assert build_prompts(Prompts(), CRANES).prompts == {
        "n02012849": ["crane"],
        "n03126707": ["crane"],
        "n01440764": ["tench"],
    }


def test_name_is_given_by_key_and_put_into_the_template():
    settings = Prompts(names={"n03126707": "{tower} crane"}, template="a photo of a {}, {x}")
    prompts = build_prompts(settings, CRANES).prompts
    assert prompts["n03126707"] == ["a photo of a {tower} crane, {x}"]
    assert prompts["n02012849"] == ["a photo of a crane, {x}"]


def test_each_template_is_a_prompt_of_each_name(tmp_path):
    file = write(tmp_path, "wnid,prompt\nn01440764,tench\nn01440764,doctor fish\n")
    settings = Prompts(names_file=file, templates=("{}", "a photo of a {}"))
    assert build_prompts(settings, table(["n01440764"])).prompts == {
        "n01440764": ["tench", "doctor fish", "a photo of a tench", "a photo of a doctor fish"]
    }


def test_unknown_class_is_answered_with_a_near_one():
    with pytest.raises(ConfigError, match=r"prompts\.names\.n0144076: .*did you mean 'n01440764'"):
        build_prompts(Prompts(names={"n0144076": "fish"}), CRANES)
    with pytest.raises(ConfigError, match="expected some of n02012849"):
        build_prompts(Prompts(names={"crane": "bird"}), CRANES)


def test_templates_without_a_place_for_the_name_are_refused():
    with pytest.raises(ConfigError, match=r"prompts\.template = 'a photo' .*put \{\} where"):
        build_prompts(Prompts(template="a photo"), CRANES)
    with pytest.raises(ConfigError, match=r"prompts\.templates\[1\]"):
        build_prompts(Prompts(templates=("{}", "x")), CRANES)
    assert "both given" in prompt_problems(Prompts(template="a {}", templates=("{}",)))[0]


# ------------------------------------------------------------------------------------------ the linter


def test_duplicates_are_refused_with_a_way_out_unless_they_are_allowed():
    bank = build_prompts(Prompts(), CRANES)
    read = {"crane": "crane", "tench": "tench"}
    with pytest.raises(
        ConfigError, match=r"n02012849 and n03126707 share the prompt 'crane'.*names\.n03126707="
    ):
        check_prompts(bank, read, allow_duplicates=False)
    warnings = check_prompts(bank, read, allow_duplicates=True)
    assert len(warnings) == 1
    assert "share the prompt" in warnings[0]
    better = build_prompts(Prompts(names={"n03126707": "construction crane"}), CRANES)
    assert check_prompts(better, {"construction crane": "construction crane", **read}, False) == []


def test_all_pairs_of_the_mapping_are_found_and_another_lemma_is_proposed(tmp_path):
    file = write(tmp_path, MAPPING, "LOC_synset_mapping.txt")
    problems = prompt_problems(Prompts(names_file=file), KEYS)
    assert [KEYS.index(p.split()[2]) for p in problems] == [2, 1, 5]
    assert "prompts.names.n02113186='Cardigan Welsh corgi'" in problems[0]
    assert "prompts.names.n03126707=..." in problems[1]
    assert "prompts.names.n03710721='tank suit'" in problems[2]
    assert prompt_problems(Prompts(names_file=file, names=UNIQUE), KEYS) == []
    assert prompt_problems(Prompts(names_file=file, allow_duplicates=True), KEYS) == []


def test_duplicates_show_before_the_keys_are_known_if_the_file_holds_the_classes_and_no_more(tmp_path):
    file = write(tmp_path, MAPPING)
    assert len(prompt_problems(Prompts(names_file=file), num_classes=8)) == 3
    assert (
        prompt_problems(Prompts(names_file=file), num_classes=7) == []
    )  # those that count are not known yet


def test_what_only_the_encoder_takes_for_equal_is_found():
    settings = Prompts(names={"n02012849": "crane (bird)", "n03126707": "crane bird"})
    bank = build_prompts(settings, CRANES)
    flat = [text for texts in bank.prompts.values() for text in texts]
    t5 = TextEncoder(kind="t5")
    read = dict(zip(flat, read_as(t5, flat), strict=True))
    with pytest.raises(ConfigError, match=r"clean-up makes of 'crane \(bird\)' and 'crane bird'"):
        check_prompts(bank, read, allow_duplicates=False)
    assert check_prompts(bank, {text: text for text in flat}, allow_duplicates=False) == []


def test_a_prompt_of_which_the_clean_up_leaves_nothing_is_refused():
    bank = build_prompts(Prompts(names={"n02012849": "@crane"}), CRANES)
    with pytest.raises(ConfigError, match=r"class n02012849: nothing is left of '@crane'"):
        check_prompts(bank, {"@crane": "", "crane": "crane", "tench": "tench"}, allow_duplicates=True)


def test_one_message_per_pair_however_many_templates():
    prompts = {"a": ["one", "a one"], "b": ["one", "a one"], "c": ["two", "two"]}
    assert len(shared_prompts(prompts, {})) == 1


@pytest.mark.parametrize(
    ("name", "problem", "warning"),
    [
        ("tench", "", ""),
        ("", "empty name", ""),
        (" \t", "empty name", ""),
        ("ten\tch", "control character", ""),
        ("ten\x00ch", "control character", ""),
        ("ten\u200bch", "", "invisible character"),
        (" tench", "", "begins or ends with a blank"),
        ("a fish that lives in fresh water of Europe", "", "9 words"),
        ("a fish that lives in fresh water somewhere", "", ""),
        ("Bäckahästen / näck's (<b>)", "", ""),
    ],
)
def test_single_names_are_judged(name, problem, warning):
    problems, warnings = lint_names({"n01440764": [name]}, 8)
    for found, expected in ((problems, problem), (warnings, warning)):
        assert len(found) == bool(expected)
        assert not expected or (expected in found[0] and "prompts.names.n01440764=" in found[0])


def test_an_empty_name_is_refused_even_inside_a_template():
    bank = build_prompts(Prompts(names={"n01440764": " "}, template="a photo of a {}"), CRANES)
    assert "n01440764 has an empty name" in bank.problems[0]


# --------------------------------------------------------------------------------- files with the names


@pytest.mark.parametrize(
    "text",
    [
        "n01440764 tench, Tinca tinca\nn02119789 kit fox, Vulpes macrotis\n",
        "n01440764 tench, Tinca tinca\r\nn02119789 kit fox\r\n\r\n",
        "\ufeffn01440764\ttench, Tinca tinca\nn02119789\tkit fox",
        "n02119789 1 kit_fox\nn01440764 486 tench\n",
        'wnid,prompt\nn01440764,tench\nn02119789,"kit fox"\n',
        '\ufeff"prompt","index","WNID"\r\n"tench",0,"n01440764"\r\n"kit fox",278,"n02119789"\r\n',
    ],
    ids=["kaggle", "windows", "words.txt", "map_clsloc", "csv", "csv-excel"],
)
def test_every_file_gives_the_same_names(tmp_path, text):
    settings = Prompts(names_file=write(tmp_path, text))
    bank = build_prompts(settings, table(["n02119789", "n01440764"]))
    assert bank.prompts == {"n02119789": ["kit fox"], "n01440764": ["tench"]}
    assert list(bank.prompts) == ["n02119789", "n01440764"]  # the order of the data
    assert bank.warnings == ()


def test_csv_quoting_line_breaks_and_several_prompts(tmp_path):
    text = (
        'wnid,prompt\r\nn01440764,"tench, a ""doctor"" fish"\r\nschön/<b>,näck\r\nscho\u0308n/<b>,troll\r\n'
    )
    settings = Prompts(names_file=write(tmp_path, text))
    assert build_prompts(settings, table(["schön/<b>", "n01440764"])).prompts == {
        "schön/<b>": ["näck", "troll"],
        "n01440764": ['tench, a "doctor" fish'],
    }


def test_a_name_of_the_user_wins_over_the_file(tmp_path):
    settings = Prompts(names_file=write(tmp_path, MAPPING), names=UNIQUE)
    prompts = build_prompts(settings, table(KEYS)).prompts
    assert prompts["n03126707"] == ["construction crane"]
    assert prompts["n02012849"] == ["crane"]


def test_missing_classes_are_named_and_others_counted(tmp_path):
    file = write(tmp_path, MAPPING)
    with pytest.raises(
        ConfigError, match=r"no name for 1 of 2 classes: n01443537; set prompts\.names\.n01443537"
    ):
        build_prompts(Prompts(names_file=file), table(["n01440764", "n01443537"]))
    with pytest.raises(
        ConfigError, match=r"no name for 2 of 2 classes: a, b; it has n01440764, .*other data\?"
    ):
        build_prompts(Prompts(names_file=file), table(["a", "b"]))
    filled = Prompts(names_file=file, names={"n01443537": "goldfish"})
    bank = build_prompts(filled, table(["n01440764", "n01443537"]))
    assert bank.prompts["n01443537"] == ["goldfish"]
    assert "7 of its classes are not in the data" in bank.warnings[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("tench\ngoldfish\n", "line 1: 'tench' does not begin with a WNID"),
        ("n01440764 tench\nn01440764 fish\n", "line 2: n01440764 stands in line 1, too"),
        ("n01440764 tench\nn1 fish\n", "line 2: 'n1 fish'"),
        (b"n01440764 t\xe4nch\n", "line 1: is not UTF-8"),
        ("wnid;prompt\nn01440764;tench\n", "expected wnid,prompt, separated by a comma"),
        ("wnid,prompt\n", "no row below the head"),
        ("wnid,prompt\nn01440764,tench, Tinca\n", "line 2: has 3 cells; expected 2"),
        ("wnid,prompt\n,tench\n", "line 2: the wnid is empty"),
        ('wnid,prompt\nn01440764,"tench\n', "is no CSV"),
        ('wnid,prompt\nn01440764,"a" b\n', "line 2: is no CSV"),
        (b"MATLAB 7.3 MAT-file", "save it with -v7"),
        (b"MATLAB 5.0 MAT-file", "no whole MATLAB 5 file"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, text, message):
    file = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as error:
        read_names(pathlib.Path(file))
    assert file in str(error.value)
    assert "\n" not in str(error.value)
    assert message in prompt_problems(Prompts(names_file=file))[0]


def test_a_missing_file_is_named(tmp_path):
    assert "No such file" in prompt_problems(Prompts(names_file=str(tmp_path / "none")))[0]


# ------------------------------------------------------------------------------------------- meta.mat


def devkit(folder: pathlib.Path, compress: bool, leaves: int = 5, nodes: int = 3) -> str:
    """Writes a meta.mat as the ILSVRC2012 devkit has it: leaves first, then the inner nodes."""
    scipy_io = pytest.importorskip("scipy.io")
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "num_train_images")
    synsets = np.zeros((leaves + nodes, 1), [(field, object) for field in fields])
    for i in range(leaves + nodes):
        children = np.arange(1.0, 4.0)[None] if i >= leaves else np.zeros((1, 0))
        words = f"{'leaf' if i < leaves else 'node'} {i}, lemma of näck {i}"
        synsets[i, 0] = (i + 1.0, f"n{9 * i:08d}", words, "a gloss", float(children.size), children, 1300.0)
    buffer = io.BytesIO()
    scipy_io.savemat(buffer, {"synsets": synsets}, do_compression=compress)
    return write(folder, buffer.getvalue(), "meta.mat")


@pytest.mark.parametrize("compress", [False, True])
def test_the_devkit_gives_the_first_lemma_of_each_leaf(tmp_path, compress):
    file = devkit(tmp_path, compress)
    keys = [f"n{9 * i:08d}" for i in range(5)]
    bank = build_prompts(Prompts(names_file=file), table(keys))
    assert bank.prompts == {key: [f"leaf {i}"] for i, key in enumerate(keys)}
    assert bank.others[keys[3]] == ("lemma of näck 3",)
    assert bank.warnings == ()  # the inner nodes are no classes that could be missed
    assert prompt_problems(Prompts(names_file=file), num_classes=5) == []


@pytest.mark.parametrize("compress", [False, True])
def test_arrays_are_read_as_scipy_wrote_them(tmp_path, compress):
    scipy_io = pytest.importorskip("scipy.io")
    numbers = {
        kind: np.arange(6).reshape(2, 3).astype(kind)
        for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
    }
    cells = np.array(["näck", np.array([1.5, 2.5]), np.array(["x"], object)], object)
    path = tmp_path / "a.mat"
    scipy_io.savemat(
        path,
        {**numbers, "text": "Tench ü", "cells": cells, "s": {"a": 1.0, "b": "x"}},
        do_compression=compress,
    )
    found = read_mat(path)
    for kind, array in numbers.items():
        np.testing.assert_array_equal(found[kind], array.T.ravel())
    assert found["text"] == "Tench ü"
    assert found["cells"][0] == "näck"
    assert found["cells"][1].tolist() == [1.5, 2.5]
    assert found["cells"][2] == ["x"]
    assert found["s"][0]["b"] == "x"


@pytest.mark.parametrize("compress", [False, True])
def test_a_torn_file_of_any_length_is_one_clear_error_or_lacks_the_table(tmp_path, compress):
    whole = pathlib.Path(devkit(tmp_path, compress, leaves=1, nodes=1)).read_bytes()
    for length in range(0, len(whole), 3):
        torn = pathlib.Path(write(tmp_path, whole[:length], "torn.mat"))
        with pytest.raises(ConfigError) as error:
            read_names(torn)
        assert str(error.value).startswith(str(torn))


def test_a_changed_byte_never_ends_in_another_error(tmp_path):
    whole = bytearray(pathlib.Path(devkit(tmp_path, False, leaves=1, nodes=1)).read_bytes())
    rng = np.random.default_rng(0)
    for at in rng.integers(128, len(whole), 400):
        changed = bytearray(whole)
        changed[at] = rng.integers(256)
        try:
            read_names(pathlib.Path(write(tmp_path, bytes(changed), "changed.mat")))
        except ConfigError as error:
            assert "changed.mat" in str(error)
