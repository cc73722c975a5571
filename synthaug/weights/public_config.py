"""Reading the config.json of a public family strictly: what is not understood is refused by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from synthaug import config as settings
from synthaug.errors import ConfigError
from synthaug.experiment import Diffusion, Network
from synthaug.models.blocks import embedding_width, text_channels, text_pool_heads
from synthaug.models.unet import num_res_blocks

_REQUIRED = object()


class PublicConfig:
    """The settings in a config.json; what reads one raises ConfigError with the file, the key, what it takes.

    Attributes:
        config: the file's contents.
        where: the file's name in errors.
        family: what it should be, in errors, e.g. "DeepFloyd IF".
    """

    def __init__(self, config: dict[str, Any], where: str, family: str) -> None:
        self.config, self.where, self.family = config, where, family
        self._read: set[str] = set()

    def value(self, key: str, default: Any = _REQUIRED) -> Any:
        """Returns a setting as it stands in the file."""
        self._read.add(key)
        if key in self.config:
            return self.config[key]
        if default is _REQUIRED:
            raise ConfigError(
                f"{self.where}: has no {key}, which every config of {self.family} has; take config.json from "
                "the folder of the model."
            )
        return default

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Raises the error that names a setting, what it is and what it may be."""
        raise ConfigError(
            f"{self.where}: {key} = {self.config.get(key)!r} is not supported for {self.family}; "
            f"expected {expected}."
        )

    def nothing_else(self, harmless: Sequence[str]) -> None:
        """Checks that no setting is left that could change the network; called when all others were read.

        Args:
            harmless: names of settings that change nothing here.
        """
        for key, value in self.config.items():
            known = key in self._read or key in harmless or key.startswith("_")
            if not known and value not in (None, False):
                self.refuse(key, "no such setting, or null; remove it if it does not change the network")

    def fixed(self, key: str, expected: Any, default: Any = _REQUIRED) -> None:
        """Checks a setting that may have one value only; lists and tuples are the same."""
        if _plain(self.value(key, default)) != _plain(expected):
            self.refuse(key, repr(_plain(expected)))

    def all_fixed(self, required: Mapping[str, Any], optional: Mapping[str, Any]) -> None:
        """Checks settings that may have one value only; an optional one that is absent has it."""
        for key, value in required.items():
            self.fixed(key, value)
        for key, value in optional.items():
            self.fixed(key, value, default=value)

    def one_of(self, key: str, choices: Sequence[Any], default: Any = _REQUIRED) -> Any:
        """Returns a setting that is one of a few."""
        value = self.value(key, default)
        if isinstance(value, list | dict) or value not in choices:
            self.refuse(key, " or ".join(map(repr, choices)))
        return value

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        """Returns a setting that is true or false."""
        return bool(self.one_of(key, (False, True), default))

    def integer(self, key: str, default: Any = _REQUIRED, *, at_least: int = 1) -> int:
        """Returns a whole number."""
        value = self.value(key, default)
        if type(value) is not int or value < at_least:
            self.refuse(key, f"one whole number of at least {at_least}")
        return value

    def integers(self, key: str, count: int | None = None) -> tuple[int, ...]:
        """Returns a list of whole numbers above 0; where a `count` is expected, one number stands for all."""
        value = self.value(key)
        if count is not None and type(value) is int:
            value = [value] * count
        whole = isinstance(value, list | tuple) and all(type(v) is int and v > 0 for v in value)
        if not whole or not value or (count is not None and len(value) != count):
            self.refuse(key, f"a list of {'' if count is None else f'{count} '}whole numbers above 0")
        return tuple(value)

    def number(self, key: str, default: Any = _REQUIRED, *, above: float = 0.0) -> float:
        """Returns a number; of dropout and the like, `above` = -1 allows 0."""
        value = self.value(key, default)
        if type(value) not in (int, float) or not above < value < float("inf"):
            self.refuse(key, f"a number above {above:g}")
        return float(value)

    def divides(self, key: str, parts: int, what: str) -> None:
        """Checks that every number under `key` is a multiple of `parts`, which is called `what`."""
        value = self.value(key)
        if any(size % parts for size in (value if isinstance(value, list | tuple) else [value])):
            self.refuse(key, f"multiples of {what} = {parts}")


def in_range(network: Network, where: str) -> Network:
    """Returns a network that was read from a config.json.

    Raises:
        ConfigError: a setting is outside the range that a job file may state.
    """
    return settings.build(Network, settings.to_tree(network), where)


def check_expressible(
    network: Network, diffusion: Diffusion, read_back: Callable[[], tuple[Network, Diffusion]], family: str
) -> None:
    """Raises unless a family's config says all that decides the network's output.

    Args:
        network: what is to be written.
        diffusion: likewise.
        read_back: returns what the config that was made of them is read as.
        family: its name in errors.

    Raises:
        ConfigError: names the first setting that would be lost.
    """
    try:
        there = read_back()
    except ConfigError as error:
        raise ConfigError(f"this network cannot be written as {family}: {error}") from None
    pairs = [
        *_settings(_explicit(network).unet, _explicit(there[0]).unet, "unet."),
        *_settings(network, there[0], ""),
        *_settings(diffusion, there[1], "diffusion."),
    ]
    # Heads that are counted have the width that follows.
    free = {"unet", "diffusion.vlb_weight"} | ({"unet.head_dim"} if network.unet.num_heads else set())
    for name, ours, theirs in pairs:
        # A scale that is written as its inverse may come back one bit away.
        near = isinstance(ours, float) and math.isclose(ours, theirs, rel_tol=1e-12)
        if ours != theirs and not near and name not in free:
            raise ConfigError(
                f"{name} = {ours!r} cannot be written as {family}, where it is {theirs!r}; export it in "
                "synthaug's own format."
            )


def _settings(ours: Any, theirs: Any, prefix: str) -> list[tuple[str, Any, Any]]:
    return [
        (prefix + field.name, getattr(ours, field.name), getattr(theirs, field.name))
        for field in dataclasses.fields(ours)
    ]


def _explicit(network: Network) -> Network:
    """Returns the network with the settings that others imply, or that nothing hangs on, spelled out."""
    unet = network.unet
    levels = range(len(unet.channel_mult))
    by_text = unet.conditioning == "text"
    plain = dataclasses.replace(
        unet,
        num_res_blocks=tuple(num_res_blocks(unet, level) for level in levels),
        attention_resolutions=tuple(
            network.resolution >> level
            for level in levels
            if network.resolution >> level in unet.attention_resolutions
        ),
        embedding_width=embedding_width(unet),
        text_channels=text_channels(unet) if by_text else 0,
        text_pool_heads=text_pool_heads(unet, network.text_width) if by_text else 0,
        text_norm=unet.text_norm if by_text else "",
        attend_padding=by_text and unet.attend_padding,
        null_text=unet.null_text if by_text else "",
    )
    return dataclasses.replace(network, unet=plain)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
