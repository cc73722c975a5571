"""The model card of exported weights: what they are, where they come from, and what their licence allows."""

from __future__ import annotations

from typing import Any

from synthaug.licences import NONE, Licence
from synthaug.weights.families import Family

_LOADING = {
    "deepfloyd-if": "`diffusers.UNet2DConditionModel.from_pretrained(FOLDER)`",
    "adm": "guided-diffusion's `UNetModel` with the arguments in `config.json`",
}


def render(family: Family, licence: Licence, about: dict[str, Any], facts: dict[str, Any]) -> str:
    """Returns the card as Markdown with the front matter that model hubs read.

    Args:
        family: how the files are written.
        licence: what the weights come under.
        about: the checkpoint's record: network, diffusion, source.
        facts: step, metrics, number of parameters and hash of what was exported.
    """
    network, source = about["network"], about.get("source")
    loading = [f"- `synthaug.weights.open_unet(FOLDER)`, or `synthaug import {family.key} FOLDER CHECKPOINT`"]
    if family.key in _LOADING:
        loading.insert(0, f"- {_LOADING[family.key]}")
    metrics = ", ".join(f"{name} {value:.6g}" for name, value in sorted(facts["metrics"].items()))
    return "\n".join(
        [
            "---",
            "library_name: diffusers" if family.key == "deepfloyd-if" else "library_name: synthaug",
            *_front_matter(licence),
            "---",
            "",
            f"# A {network['resolution']} px diffusion U-Net, trained with synthaug",
            "",
            f"{facts['parameters']:,} parameters, in the files of {family.title}.",
            "",
            "## Licence",
            "",
            f"**{licence.name}.** {licence.terms}" + (f" Text: {licence.url}" if licence.url else ""),
            "",
            f"Images made with these weights: {licence.terms}",
            "",
            "## Origin",
            "",
            f"- {_kind(facts['averaged'])} after {facts['step']} training steps"
            + (f" ({metrics})" if metrics else ""),
            f"- started from: {_origin(source)}",
            f"- SHA-256 of the weights: `{facts['weights_sha256']}`",
            f"- written by synthaug {facts['synthaug']}; the whole record is in `synthaug.json`",
            "",
            "## Loading",
            "",
            *loading,
            "",
        ]
    )


def _kind(averaged: bool | str) -> str:
    if isinstance(averaged, str):
        return f"weights averaged post hoc ({averaged})"
    return "averaged weights" if averaged else "last weights"


def _front_matter(licence: Licence) -> list[str]:
    if licence.key == NONE.key:
        return ["tags: [diffusion]"]
    if licence.key == "adm":
        return ["license: mit", "tags: [diffusion]"]
    return [
        "license: other",
        f"license_name: {licence.key}",
        f"license_link: {licence.url}",
        "tags: [diffusion]",
    ]


def _origin(source: Any) -> str:
    if not isinstance(source, dict) or not source:
        return "random weights"
    files = ", ".join(f"{name} (sha256 {digest[:16]})" for name, digest in source.get("files", {}).items())
    return f"{source.get('folder', 'another checkpoint')}" + (f": {files}" if files else "")
