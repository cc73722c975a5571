"""What is wrong with the checkpoints that training starts from, by their records alone."""

from __future__ import annotations

import pathlib
from typing import Any

from synthaug import config, licences
from synthaug.experiment import Experiment, network_of
from synthaug.train import digest

# Settings that may differ from those a checkpoint was trained with: no weight depends on them.
FREE = {"unet.dropout", "qkv_order"}
KIND = ("unet.kind", "unet.conditioning", "low_res")
FORWARD_PROCESS = ("schedule", "num_timesteps", "prediction", "learned_variance")


def init_problems(e: Experiment) -> list[str]:
    """Returns what is wrong with every model's `finetune.init`; files are read, but no weights."""
    problems, owners = [], {}
    for name, model in e.cascade.items():
        init = model.finetune.init
        if init == "scratch":
            continue
        at = f"cascade.{name}.finetune.init = {init}"
        if not (pathlib.Path(init) / digest.FILE).is_file():
            problems.append(
                f"cascade.{name}.finetune.init = {init!r} is no checkpoint; expected scratch or the folder "
                "of a step, e.g. runs/digits/finetune-0/checkpoints/500, or one from `synthaug import`."
            )
            continue
        try:
            about = digest.read(pathlib.Path(init)).get("about") or {}
        except digest.Unusable as problem:
            problems.append(f"{at}: {problem}; use another step.")
            continue
        problems += _misfits(e, name, at, about)
        owners[name] = str(about.get("licence", licences.NONE.key))
    return [*problems, *licence_problems(e, owners)]


def licence_problems(e: Experiment, owners: dict[str, str]) -> list[str]:
    """Returns what is wrong with the licences of a cascade.

    Images of a cascade come under the licences of all its models at once, so several have to be named.

    Args:
        e: the experiment, with what it says in `licences`.
        owners: {model: key of its checkpoint's licence}.
    """
    found = licences.binding(owners.values())
    listed = ", ".join(found)
    if len(found) > 1 and sorted(e.licences) != found:
        where = ", ".join(f"{name}: {key}" for name, key in owners.items() if key in found)
        return [
            f"the cascade starts from checkpoints of different licences ({where}), all of which bind its "
            f"images; if you can keep to all, say so with licences: [{listed}]."
        ]
    stray = [key for key in e.licences if key not in found]
    if stray:
        there = listed or "none"
        return [f"licences: no checkpoint comes under {', '.join(stray)}, found {there}; remove it."]
    return []


def _misfits(e: Experiment, name: str, at: str, about: dict[str, Any]) -> list[str]:
    """Returns the first difference between a model and the record of its checkpoint."""
    found = _network_misfits(e, name, at, about)
    # That it is another kind of model explains every other difference.
    return [*found["kind"], *_diffusion_misfits(e, name, at, about), *found["rest"]][:1]


def _diffusion_misfits(e: Experiment, name: str, at: str, about: dict[str, Any]) -> list[str]:
    there, here = about.get("diffusion") or {}, e.cascade[name].diffusion
    return [
        f"{at}: was trained with diffusion.{knob} = {_text(there[knob])}, here it is "
        f"{_text(getattr(here, knob))}; set cascade.{name}.diffusion.{knob}: {_text(there[knob])}."
        for knob in FORWARD_PROCESS
        if knob in there and there[knob] != getattr(here, knob)
    ]


def _network_misfits(e: Experiment, name: str, at: str, about: dict[str, Any]) -> dict[str, list[str]]:
    """Returns how the networks differ: in what they are at all ("kind"), and otherwise ("rest")."""
    found: dict[str, list[str]] = {"kind": [], "rest": []}
    if not about.get("network"):
        return found  # written before records had it; the weights' shapes are compared at the start
    was, now = (
        config.flatten(_plain(tree)) for tree in (about["network"], config.to_tree(network_of(e, name)))
    )
    # Where padding is attended to, a prompt of another length looks different to the network.
    free = FREE if was.get("unet.attend_padding") and was.get("text_length") else FREE | {"text_length"}
    family = about.get("family", "synthaug")
    for knob in sorted(was.keys() & now.keys(), key=_first_say):
        if was[knob] != now[knob] and knob not in free:
            found["kind" if knob in KIND else "rest"].append(
                f"{at}: {_named(knob)} = {_text(was[knob])} in this checkpoint ({family}), "
                f"{_text(now[knob])} here; {_remedy(knob, name, was[knob])}."
            )
    return found


def _plain(network: dict[str, Any]) -> dict[str, Any]:
    """Returns a network with its defaults spelled out, so that equal ones compare equal."""
    unet = dict(network.get("unet") or {})
    levels = len(unet.get("channel_mult") or ())
    blocks = list(unet.get("num_res_blocks") or ())
    unet["num_res_blocks"] = blocks * levels if len(blocks) == 1 else blocks
    unet["channel_mult"] = [float(mult) for mult in unet.get("channel_mult") or ()]
    unet["attention_resolutions"] = sorted(unet.get("attention_resolutions") or ())
    unet["embedding_width"] = unet.get("embedding_width") or 4 * unet.get("channels", 0)
    unet["text_channels"] = unet.get("text_channels") or unet["embedding_width"]
    if unet.get("num_heads"):
        unet["head_dim"] = 0
    if unet.get("conditioning") == "label":  # nothing of these is in the network
        told = ("attention", "text_channels", "text_norm", "text_pool_heads", "attend_padding", "null_text")
        unet |= dict.fromkeys(told, 0)
    elif not unet.get("text_pool_heads") and unet.get("head_dim"):
        unet["text_pool_heads"] = max(1, network.get("text_width", 0) // unet["head_dim"])
    plain = {**network, "unet": unet}
    return plain if network.get("low_res") else {**plain, "enlarge": "", "augmentation": ""}


def _first_say(knob: str) -> tuple[int, str]:
    """Orders settings so that the one that explains the others comes first."""
    order = (
        "unet.kind",
        "unet.conditioning",
        "low_res",
        "channels",
        "resolution",
        "text_width",
        "text_length",
    )
    return (order.index(knob) if knob in order else len(order), knob)


def _named(knob: str) -> str:
    names = {
        "text_width": "width of a text embedding",
        "text_length": "tokens of a prompt",
        "low_res": "it enlarges images (low_res)",
        "channels": "channels of an image",
        "num_classes": "classes",
    }
    return names.get(knob, knob)


def _remedy(knob: str, name: str, value: Any) -> str:
    remedies = {
        "text_width": f"set text_encoder.width: {value}, with the encoder that it was trained with",
        "text_length": f"set text_encoder.max_length: {value}",
        "low_res": "use a checkpoint of a base model"
        if value
        else "use a checkpoint of a model that enlarges",
        "channels": f"set data.channels: {value}",
        "num_classes": "use data of as many classes, or another checkpoint",
        "out_channels": f"set cascade.{name}.diffusion.learned_variance to fit",
        "resolution": f"set cascade.{name}.resolution: {value}",
        "enlarge": f"set cascade.{name}.enlarge: {value}",
        "augmentation": f"set cascade.{name}.augmentation: {value}",
    }
    return remedies.get(knob, f"set cascade.{name}.{knob}: {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
