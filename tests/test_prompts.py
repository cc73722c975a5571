"""Prompts hang on class keys, and bad prompt banks are noticed."""

from __future__ import annotations

import pytest

from synthaug.errors import ConfigError
from synthaug.experiment import Prompts
from synthaug.manifest import ClassEntry, ClassTable
from synthaug.prompts import build_prompts, lint_prompts

CRANES = ClassTable(
    (
        ClassEntry("n02012849", "crane", 1, 1),
        ClassEntry("n03126707", "crane", 1, 1),
        ClassEntry("n01440764", "tench", 1, 1),
    )
)


def test_prompt_is_the_bare_name():
    assert build_prompts(Prompts(), CRANES) == {
        "n02012849": ["crane"],
        "n03126707": ["crane"],
        "n01440764": ["tench"],
    }


def test_name_is_given_by_key_and_put_into_the_template():
    settings = Prompts(names={"n03126707": "{tower} crane"}, template="a photo of a {}, {x}")
    prompts = build_prompts(settings, CRANES)
    assert prompts["n03126707"] == ["a photo of a {tower} crane, {x}"]
    assert prompts["n02012849"] == ["a photo of a crane, {x}"]


def test_unknown_class_is_answered_with_a_near_one():
    with pytest.raises(ConfigError, match=r"prompts\.names\.n0144076: .*did you mean 'n01440764'"):
        build_prompts(Prompts(names={"n0144076": "fish"}), CRANES)
    with pytest.raises(ConfigError, match="expected some of n02012849"):
        build_prompts(Prompts(names={"crane": "bird"}), CRANES)


def test_template_without_a_place_for_the_name_is_refused():
    with pytest.raises(ConfigError, match=r"put \{\} where"):
        build_prompts(Prompts(template="a photo"), CRANES)


def test_equal_and_empty_prompts_are_warned_of():
    settings = Prompts(names={"n01440764": " "})
    warnings = lint_prompts(build_prompts(settings, CRANES))
    assert len(warnings) == 2
    assert "n02012849 and n03126707 share the prompt 'crane'" in warnings[0]
    assert "n01440764 has an empty prompt" in warnings[1]


def test_prompts_that_differ_are_not_warned_of():
    settings = Prompts(names={"n03126707": "construction crane"})
    assert lint_prompts(build_prompts(settings, CRANES)) == []
    assert lint_prompts({"a": ["one", "one"], "b": ["two"]}) == []
