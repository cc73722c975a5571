"""The text of each class. Prompts hang on the class key (folder name or WNID), never on the name."""

from __future__ import annotations

import dataclasses
import pathlib
import unicodedata
from collections.abc import Mapping, Sequence

from synthaug.config import did_you_mean
from synthaug.errors import ConfigError
from synthaug.experiment import Prompts
from synthaug.manifest import ClassTable
from synthaug.wordnet import Names, read_names

_SOME = 8  # classes that a message names


@dataclasses.dataclass(frozen=True)
class Bank:
    """The prompts of all classes, and what is to be said about them."""

    prompts: dict[str, list[str]]  # class key -> prompts, in the order of the classes
    problems: tuple[str, ...]  # of single names; embed refuses them
    warnings: tuple[str, ...]
    others: dict[str, tuple[str, ...]]  # class key -> other names of it, to tell two classes apart


def build_prompts(settings: Prompts, table: ClassTable) -> Bank:
    """Returns the prompts of every class, several where there are several names or templates.

    The paper's prompt is the bare class name, one per class (Azizi et al. 2023, section 4.1).

    Args:
        settings: `names` wins over `names_file`, and that over the names of the source.
        table: the classes with the names of the source.

    Raises:
        ConfigError: names_file cannot be read or lacks classes, `names` has one that the data do not have, or
            a template has no place for a name.

    Example:
        >>> from synthaug.manifest import ClassEntry
        >>> table = ClassTable(tuple(ClassEntry(key, "crane", 9, 1) for key in ("n02012849", "n03126707")))
        >>> build_prompts(Prompts(names={"n03126707": "construction crane"}), table).prompts
        {'n02012849': ['crane'], 'n03126707': ['construction crane']}
    """
    return _build(settings, {entry.key: entry.name for entry in table.entries})


def prompt_problems(settings: Prompts, keys: Sequence[str] = (), num_classes: int = 0) -> list[str]:
    """Returns what is wrong with the prompts, as far as it shows before the data are listed.

    Without `names_file` the names come with the data, so that only the templates can be judged.

    Args:
        settings: the prompts.
        keys: the class keys, if they are known.
        num_classes: else: a file with names for so many classes is taken to hold the classes of the data.
    """
    if problems := template_problems(settings):
        return problems
    if not settings.names_file:
        return []
    try:
        found = read_names(pathlib.Path(settings.names_file))
        leaves = [key for key in found.names if key in found.leaves]
        if not keys and len(leaves) != num_classes:
            return []
        bank = _build(settings, dict.fromkeys(keys or leaves, ""), found)
    except ConfigError as error:
        return [str(error)]
    shared = [] if settings.allow_duplicates else shared_prompts(bank.prompts, bank.others)
    return [*bank.problems, *shared]


def template_problems(settings: Prompts) -> list[str]:
    """Returns what is wrong with the templates."""
    given = {"prompts.template": settings.template}
    given |= {f"prompts.templates[{i}]": template for i, template in enumerate(settings.templates)}
    problems = [
        f"{at} = {template!r} gives every class the same prompt; put {{}} where the class name goes, "
        "e.g. 'a photo of a {}'."
        for at, template in given.items()
        if "{}" not in template
    ]
    if settings.templates and settings.template != "{}":
        problems.append("prompts: template and templates are both given; put all of them into templates.")
    return problems


def _build(settings: Prompts, source: Mapping[str, str], found: Names | None = None) -> Bank:
    """Returns the bank of classes, given as {key: name in the source}."""
    for problem in template_problems(settings):
        raise ConfigError(problem)
    for key in settings.names:
        if key not in source:
            hint = did_you_mean(key, list(source), end=f"; expected some of {_listed(list(source))}.")
            raise ConfigError(f"prompts.names.{key}: the data have no such class{hint}")
    names = {key: [name] for key, name in source.items()}
    warnings: list[str] = []
    if settings.names_file:
        found = found or read_names(pathlib.Path(settings.names_file))
        names, warnings = _from_file(settings, found, list(source))
    names |= {key: [name] for key, name in settings.names.items()}
    # replace, not format: a class name or a template may hold other braces
    templates = settings.templates or (settings.template,)
    prompts = {key: [t.replace("{}", n) for t in templates for n in own] for key, own in names.items()}
    others = {key: found.others.get(key, ()) for key in names} if found else {}
    problems, more = lint_names(names, settings.max_words)
    return Bank(prompts, tuple(problems), (*warnings, *more), others)


def _from_file(settings: Prompts, found: Names, keys: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Returns the names of the classes in the file, and a warning if it has others, too."""
    file = settings.names_file
    missing = [key for key in keys if key not in found.names and key not in settings.names]
    if missing:
        hint = f"set prompts.names.{missing[0]}=... and so on, or add them to the file"
        if len(missing) == len(keys):
            hint = f"it has {_listed(list(found.names))}: is it the file of other data?"
        raise ConfigError(
            f"prompts.names_file = {file}: no name for {len(missing)} of {len(keys)} classes: "
            f"{_listed(missing)}; {hint}"
        )
    known = set(keys)
    unused = [key for key in found.names if key in found.leaves and key not in known]
    warnings = []
    if unused:
        warnings.append(
            f"prompts.names_file = {file}: {len(unused)} of its classes are not in the data and not used: "
            f"{_listed(unused)}."
        )
    return {key: list(found.names.get(key, ())) for key in keys}, warnings


def lint_names(names: Mapping[str, Sequence[str]], max_words: int) -> tuple[list[str], list[str]]:
    """Returns the problems and the warnings of single names.

    A problem is a name that is empty or holds control characters; a warning one that is longer than a name
    of a class mostly is, begins or ends with blanks, holds invisible characters, or stands twice.

    Example:
        >>> lint_names({"n01440764": [""]}, 8)[0]
        ['prompts: class n01440764 has an empty name; set prompts.names.n01440764=...']
    """
    problems, warnings = [], []
    for key, own in names.items():
        fix = f"; set prompts.names.{key}=..."
        for name in own:
            kinds = {unicodedata.category(c) for c in name}
            at = f"prompts: class {key}: {name[:60]!r}"
            if not name.strip():
                problems.append(f"prompts: class {key} has an empty name{fix}")
            elif kinds & {"Cc", "Cs"}:
                problems.append(f"{at} holds a control character{fix}")
            elif "Cf" in kinds:
                warnings.append(f"{at} holds an invisible character{fix}")
            if name.strip() and name != name.strip():
                warnings.append(f"{at} begins or ends with a blank{fix}")
            if (words := len(name.split())) > max_words:
                warnings.append(
                    f"{at} has {words} words, more than prompts.max_words = {max_words}: a whole description "
                    f"makes a poor name{fix}"
                )
        if twice := sorted({name for i, name in enumerate(own) if name in own[:i]}):
            warnings.append(f"prompts: class {key} has {twice[0][:60]!r} twice; it is drawn twice as often.")
    return problems, warnings


def shared_prompts(
    prompts: Mapping[str, Sequence[str]],
    others: Mapping[str, Sequence[str]],
    read: Mapping[str, str] | None = None,
) -> list[str]:
    """Returns one message per pair of classes that share a prompt, but for capitals and blanks.

    ImageNet has two cranes, two maillots, a Cardigan and a cardigan; CLIP's list has two "missile" and two
    "sunglasses". With equal prompts a class-conditional generator makes the same images for both classes.

    Args:
        prompts: by class key.
        others: further names by class key; one of them is proposed.
        read: {prompt: what the encoder reads}; classes that differ in brackets alone may be one to it.

    Example:
        >>> shared_prompts({"n02012849": ["crane"], "n03126707": ["Crane "]}, {})[0][:64]
        "prompts: classes n02012849 and n03126707 share the prompt 'crane"
    """
    messages = []
    owner: dict[str, tuple[str, str]] = {}
    told = set()
    for key, texts in prompts.items():
        for text in texts:
            plain = _plain((read or {}).get(text, text))
            first, before = owner.setdefault(plain, (key, text))
            if not plain or first == key or (first, key) in told:
                continue
            told.add((first, key))
            what = f"share the prompt {plain[:60]!r}"
            if _plain(before) != _plain(text):
                what += f", which the encoder's clean-up makes of {before[:60]!r} and {text[:60]!r}"
            messages.append(
                f"prompts: classes {first} and {key} {what}, so that the generator cannot tell them apart; "
                f"set {_way_out(first, key, others)}, or allow it with prompts.allow_duplicates=true."
            )
    return messages


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _way_out(first: str, second: str, others: Mapping[str, Sequence[str]]) -> str:
    """Returns the override that tells two classes apart, with another lemma of one where there is one."""
    for key in (second, first):
        if others.get(key):
            return f"prompts.names.{key}={others[key][0]!r}"
    return f"prompts.names.{second}=..."


def _listed(keys: Sequence[str]) -> str:
    rest = f" and {len(keys) - _SOME} more" if len(keys) > _SOME else ""
    return f"{', '.join(keys[:_SOME])}{rest}"
