"""The text of each class. Prompts hang on the class key (folder name or WNID), never on the name."""

from __future__ import annotations

from synthaug.config import did_you_mean
from synthaug.errors import ConfigError
from synthaug.experiment import Prompts
from synthaug.manifest import ClassTable


def build_prompts(settings: Prompts, table: ClassTable) -> dict[str, list[str]]:
    """Returns {class key: prompts} in the order of the table.

    The paper's prompt is the bare class name, one per class (Azizi et al. 2023, section 4.1).

    Raises:
        ConfigError: `names` has a class that the data do not have, or the template has no place for a name.

    Example:
        >>> from synthaug.manifest import ClassEntry
        >>> table = ClassTable(tuple(ClassEntry(key, "crane", 9, 1) for key in ("n02012849", "n03126707")))
        >>> build_prompts(Prompts(names={"n03126707": "construction crane"}), table)
        {'n02012849': ['crane'], 'n03126707': ['construction crane']}
    """
    if "{}" not in settings.template:
        raise ConfigError(
            f"prompts.template = {settings.template!r} gives every class the same prompt; "
            "put {} where the class name goes, e.g. 'a photo of a {}'."
        )
    keys = [entry.key for entry in table.entries]
    for key in settings.names:
        if key not in keys:
            hint = did_you_mean(key, keys, end=_some(keys))
            raise ConfigError(f"prompts.names.{key}: the data have no such class{hint}")
    # replace, not format: a class name or a template may hold other braces
    return {
        entry.key: [settings.template.replace("{}", settings.names.get(entry.key, entry.name))]
        for entry in table.entries
    }


def lint_prompts(prompts: dict[str, list[str]]) -> list[str]:
    """Returns one warning per prompt that is empty or does not tell two classes apart.

    ImageNet has two cranes, two maillots and more: with equal prompts a class-conditional generator
    makes the same images for both classes.

    Example:
        >>> lint_prompts({"bird": ["crane"], "machine": ["Crane "]})
        ["prompts: classes bird and machine share the prompt 'crane'; set prompts.names for one of them."]
    """
    warnings = []
    owner: dict[str, str] = {}
    for key, texts in prompts.items():
        if not any(text.strip() for text in texts):
            warnings.append(f"prompts: class {key} has an empty prompt; set prompts.names.{key}.")
            continue
        for text in texts:
            plain = " ".join(text.casefold().split())
            first = owner.setdefault(plain, key)
            if first != key:
                warnings.append(
                    f"prompts: classes {first} and {key} share the prompt {plain!r}; "
                    "set prompts.names for one of them."
                )
    return warnings


def _some(keys: list[str], limit: int = 8) -> str:
    rest = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return f"; expected some of {', '.join(keys[:limit])}{rest}."
