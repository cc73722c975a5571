"""YAML plus dotted overrides -> frozen dataclasses, and back: the one place where settings are checked.

A knob is stated once, as a field of a dataclass made with `knob(default, doc, ...)`. Everything else
(type check, range check, did-you-mean, `synthaug show`, the JSON schema) is derived from the fields.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import yaml

from synthaug.errors import ConfigError

T = TypeVar("T")


def knob(
    default: Any = dataclasses.MISSING,
    doc: str = "",
    *,
    unit: str = "",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    choices: tuple[Any, ...] = (),
) -> Any:
    """Returns a dataclass field with its documentation, unit and allowed range.

    Args:
        default: the value if the job file does not state it; required if left out.
        doc: one line for people; it becomes the description in the JSON schema.
        unit: unit of the value, e.g. "images".
        at_least: smallest allowed value. For a sequence it bounds every element.
        above: the value must be larger than this.
        at_most: largest allowed value.
        choices: the allowed values; empty for any.
    """
    metadata = {
        "doc": doc,
        "unit": unit,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "choices": choices,
    }
    if isinstance(default, (dict, list)):
        frozen = default
        return dataclasses.field(default_factory=lambda: type(frozen)(frozen), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


# ------------------------------------------------------------------------------------------ reading


# What PyYAML lets through: impossible dates, `!!int x`, a thousand brackets, numbers of a thousand digits.
UNREADABLE = (ValueError, TypeError, RecursionError, OverflowError)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader that refuses a key given twice: the second would win silently."""


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"line {key_node.start_mark.line + 1}: a key must be a word, e.g. seed.")
        if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *anchor`, whose keys are meant to be overridden
            continue
        key = loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if key in seen:
            raise ConfigError(f"key {key!r} stands twice, in lines {seen[key]} and {line}; remove one.")
        seen[key] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def read_yaml(path: pathlib.Path) -> dict[str, Any]:
    """Returns the mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, is no YAML, or does not hold a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, _names_beside(path), n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else "; check the path."
        raise ConfigError(f"{path}: no such file{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error}); expected a YAML file.") from None
    return parse_yaml(text, where=str(path))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """Returns the mapping in `text`; `where` names it in errors."""
    try:
        tree = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "bad syntax"
        raise ConfigError(f"{where}: not YAML{line}: {problem}; expected `key: value` lines.") from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except UNREADABLE as error:
        raise ConfigError(f"{where}: not YAML: {_first_line(error)}; expected `key: value` lines.") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: holds {_kind(tree)}; expected a mapping of `key: value` lines.")
    return tree


def _names_beside(path: pathlib.Path) -> list[str]:
    return [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []


def apply_overrides(tree: Mapping[str, Any], overrides: typing.Sequence[str]) -> dict[str, Any]:
    """Returns `tree` with dotted `key=value` overrides applied; values are YAML.

    Example:
        >>> apply_overrides({"a": {"b": 1}}, ["a.b=2", "a.c=[1, 2]"])
        {'a': {'b': 2, 'c': [1, 2]}}
    """
    result: dict[str, Any] = json.loads(json.dumps(tree)) if _is_plain(tree) else dict(tree)
    for override in overrides:
        dotted, equals, text = override.partition("=")
        if not equals or not dotted:
            raise ConfigError(f"override {override!r}: expected key.sub=value, e.g. seed=1.")
        try:
            value = yaml.load(text, Loader=_Loader)
        except (yaml.YAMLError, *UNREADABLE):
            raise ConfigError(f"override {override[:200]!r} is not YAML; quote its value.") from None
        node = result
        *parents, last = dotted.split(".")
        for depth, key in enumerate(parents):
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                at = ".".join(parents[: depth + 1])
                raise ConfigError(f"override {override!r}: {at} is {_kind(child)}, it has no keys.")
            node = child
        node[last] = value
    return result


def _is_plain(tree: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(tree)) == tree)
    except (TypeError, ValueError):
        return False


# ----------------------------------------------------------------------------------------- building


def build(cls: type[T], tree: Any, where: str, key: str = "") -> T:
    """Returns the dataclass `cls` filled from the mapping `tree`.

    Args:
        cls: a dataclass whose fields were made with `knob`.
        tree: a mapping as read from YAML.
        where: the file's name, for errors.
        key: the dotted key of `tree` inside the file, for errors.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, or a value out of range.
    """
    at = f"{where}: {key}" if key else where
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{at} is {_kind(tree)}; expected a mapping with keys {_names(cls)}.")
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls))}
    for name in tree:
        if name not in fields:
            raise ConfigError(f"{where}: {_join(key, name)}: unknown key{did_you_mean(str(name), fields)}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in tree:
            values[name] = _convert(hints[name], tree[name], field.metadata, where, _join(key, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            doc = field.metadata.get("doc", "")
            raise ConfigError(f"{where}: {_join(key, name)} is missing; state it ({doc}).")
    return cls(**values)


def _convert(hint: Any, value: Any, meta: Mapping[str, Any], where: str, key: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where, key)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, meta, where, key)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            value = [value]  # one value stands for a list of one
        return tuple(_convert(args[0], v, meta, where, f"{key}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {key} is {_kind(value)}; expected a mapping of names.")
        return {str(k): _convert(args[1], v, {}, where, _join(key, k)) for k, v in value.items()}
    converted = _scalar(hint, value)
    if converted is None:
        expected = _expected(hint, meta)
        raise ConfigError(f"{where}: {key} = {str(value)[:80]!r} is {_kind(value)}; expected {expected}.")
    _check_range(hint, converted, meta, where, key)
    return converted


def _convert_union(args: tuple[Any, ...], value: Any, meta: Mapping[str, Any], where: str, key: str) -> Any:
    """A knob that is a number or one word, such as `logvar_mix: 0.1` or `logvar_mix: learned`."""
    words = [w for a in args if typing.get_origin(a) is typing.Literal for w in typing.get_args(a)]
    if value in words and not isinstance(value, bool):
        return value
    rest = [a for a in args if typing.get_origin(a) is not typing.Literal]
    try:
        return _convert(rest[0], value, meta, where, key)
    except ConfigError as error:
        either = " or ".join(repr(w) for w in words)
        raise ConfigError(f"{str(error).rstrip('.')}, or {either}.") from None


def _scalar(hint: Any, value: Any) -> Any:
    """Returns `value` as the type `hint`, or None if it is not one."""
    if hint is bool:
        return value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if hint is int:
        if isinstance(value, str):
            value = _number(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return value if isinstance(value, int) else None
    if hint is float:
        if isinstance(value, str):
            value = _number(value)  # PyYAML reads 1e-4 as a string: only 1.0e-4 is a float to it
        try:
            return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
        except OverflowError:
            return None
    if hint is str:
        if isinstance(value, str):
            return value
        return str(value) if isinstance(value, (int, float)) else None
    raise TypeError(f"config: no rule for a knob of type {hint!r}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _check_range(hint: Any, value: Any, meta: Mapping[str, Any], where: str, key: str) -> None:
    choices = meta.get("choices") or ()
    if choices and value not in choices:
        raise ConfigError(
            f"{where}: {key} = {value!r}; expected one of {', '.join(map(str, choices))}"
            f"{did_you_mean(str(value), [str(c) for c in choices], end='.')}"
        )
    low, above, high = meta.get("at_least"), meta.get("above"), meta.get("at_most")
    if (
        (low is not None and value < low)
        or (above is not None and value <= above)
        or (high is not None and value > high)
    ):
        raise ConfigError(f"{where}: {key} = {value!r} is out of range; expected {_expected(hint, meta)}.")


def _expected(hint: Any, meta: Mapping[str, Any]) -> str:
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    parts = [names[hint]]
    for name, words in (("at_least", ">="), ("above", ">"), ("at_most", "<=")):
        if meta.get(name) is not None:
            parts.append(f"{words} {meta[name]:g}")
    unit = f" ({meta['unit']})" if meta.get("unit") else ""
    return " ".join(parts[:1]) + (" " + " and ".join(parts[1:]) if parts[1:] else "") + unit


def did_you_mean(name: str, known: typing.Iterable[str], end: str = "") -> str:
    """Returns the end of an error about `name`: the nearest known name, else `end`, else all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return end or f"; expected one of {', '.join(sorted(known))}."


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    names = {dict: "a mapping", list: "a list", str: "a text", bool: "true/false"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)


def _names(cls: Any) -> str:
    return ", ".join(sorted(f.name for f in dataclasses.fields(cls)))


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


# ------------------------------------------------------------------------------------------ writing


def to_tree(value: Any) -> Any:
    """Returns plain dicts, lists and scalars: the inverse of `build`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_tree(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_tree(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_tree(v) for v in value]
    return value


def flatten(tree: Any, key: str = "") -> dict[str, Any]:
    """Returns {dotted key: scalar or list} of nested mappings, sorted by key.

    Example:
        >>> flatten({"b": {"y": 2, "x": [1]}, "a": 0})
        {'a': 0, 'b.x': [1], 'b.y': 2}
    """
    if isinstance(tree, Mapping) and (tree or not key):
        flat: dict[str, Any] = {}
        for name in sorted(tree, key=str):
            flat.update(flatten(tree[name], _join(key, name)))
        return flat
    return {key: tree}


def render(value: Any) -> str:
    """Returns the resolved settings as sorted text, one `dotted.key: value` per line."""
    lines = [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in flatten(to_tree(value)).items()]
    return "\n".join(lines) + "\n"


def compare(old: Any, new: Any) -> list[str]:
    """Returns one line per differing key: `key: OLD on disk, NEW now`."""
    a, b = flatten(to_tree(old)), flatten(to_tree(new))
    missing = "not stated"
    return [
        f"{key}: {a.get(key, missing)!r} on disk, {b.get(key, missing)!r} now"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, missing) != b.get(key, missing)
    ]


def json_schema(cls: Any) -> dict[str, Any]:
    """Returns the JSON schema of the files that `build(cls, ...)` accepts, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_schema(cls, {})}


def _schema(hint: Any, meta: Mapping[str, Any]) -> dict[str, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _object_schema(hint)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_schema(a, meta) for a in args]}
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is tuple:
        item = _schema(args[0], meta)
        return {"anyOf": [{"type": "array", "items": item}, item]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(args[1], {})}
    schema: dict[str, Any] = {"type": {int: "integer", float: "number", str: "string", bool: "boolean"}[hint]}
    if meta.get("choices"):
        schema["enum"] = list(meta["choices"])
    for name, word in (("at_least", "minimum"), ("above", "exclusiveMinimum"), ("at_most", "maximum")):
        if meta.get(name) is not None:
            schema[word] = meta[name]
    if hint is float:
        # YAML 1.1 readers take 1e-4 for a text; the loader mends it, so an editor must not complain.
        return {"anyOf": [schema, {"type": "string", "pattern": r"^[+-]?\d+[eE][+-]?\d+$"}]}
    return schema


def _object_schema(cls: Any) -> dict[str, Any]:
    hints, properties, required = typing.get_type_hints(cls), {}, []
    for field in dataclasses.fields(cls):
        schema = _schema(hints[field.name], field.metadata)
        unit = f" [{field.metadata['unit']}]" if field.metadata.get("unit") else ""
        schema["description"] = field.metadata.get("doc", "") + unit
        if field.default is not dataclasses.MISSING:
            schema["default"] = to_tree(field.default)
        elif field.default_factory is dataclasses.MISSING:
            required.append(field.name)
        properties[field.name] = schema
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": required,
    }
