"""What is wrong inside the settings of one network: sizes that do not divide, parts that contradict."""

from __future__ import annotations

from synthaug.experiment import Model, UNet

TEXT_NORM_GROUPS = 32  # of text_norm = group, see models/blocks.py


def network_problems(at: str, m: Model, text_width: int) -> list[str]:
    """Returns what is wrong with a model's network; `at` is its dotted key.

    Args:
        at: e.g. "cascade.base64".
        m: the model.
        text_width: of the embeddings in the prompt bank.
    """
    u = m.unet
    problems = [*_size_problems(at, m), *_width_problems(f"{at}.unet", m)]
    if u.conditioning == "label":
        return problems + _label_problems(at, m)
    if u.attention == "self":
        problems.append(
            f"{at}.unet.attention = self with conditioning = text: the network would hardly see the text; "
            "use self+text (Imagen, DeepFloyd IF) or text, or conditioning = label."
        )
    width = u.text_channels or u.embedding_width or 4 * u.channels
    if u.text_norm == "group" and width % TEXT_NORM_GROUPS:
        problems.append(
            f"{at}.unet.text_channels = {width}; text_norm = group expects a multiple of {TEXT_NORM_GROUPS}, "
            f"e.g. {TEXT_NORM_GROUPS * max(1, round(width / TEXT_NORM_GROUPS))}."
        )
    if u.text_pool_heads and text_width % u.text_pool_heads:
        problems.append(
            f"{at}.unet.text_pool_heads = {u.text_pool_heads} does not divide text_encoder.width = "
            f"{text_width}; use a divisor, or 0."
        )
    return problems


def shrinks(u: UNet) -> int:
    """Returns by how much a network shrinks its images: every side must be a multiple of it."""
    # Every level of the Efficient U-Net begins with a stride, ADM's highest does not.
    return 1 << max(0, len(u.channel_mult) - (u.kind == "adm"))


def levels(m: Model) -> list[int]:
    """Returns the side of the images at which each level works, px."""
    return [m.resolution >> (i + (m.unet.kind == "efficient")) for i in range(len(m.unet.channel_mult))]


def _size_problems(at: str, m: Model) -> list[str]:
    u, problems = m.unet, []
    count = len(u.channel_mult)
    if m.resolution % shrinks(u):
        problems.append(
            f"{at}.resolution = {m.resolution} does not divide by {shrinks(u)}, which {count} levels of "
            f"unet.kind = {u.kind} need; change unet.channel_mult."
        )
    if len(u.num_res_blocks) not in (1, count):
        problems.append(
            f"{at}.unet.num_res_blocks has {len(u.num_res_blocks)} numbers for the {count} levels of "
            f"channel_mult; expected 1 or {count}."
        )
    for r in u.attention_resolutions:
        if r not in levels(m):
            problems.append(
                f"{at}.unet.attention_resolutions: {r} is no level; expected some of {levels(m)}."
            )
    return problems


def _width_problems(at: str, m: Model) -> list[str]:
    """Widths of the levels, and what has to divide them."""
    u, problems = m.unet, []
    if u.channels % 2:
        problems.append(f"{at}.channels = {u.channels}; expected an even number.")
    if u.embedding_width % 2:
        problems.append(f"{at}.embedding_width = {u.embedding_width}; expected an even number, or 0.")
    attending = {i for i, side in enumerate(levels(m)) if side in u.attention_resolutions}
    if u.kind == "adm":
        attending.add(len(u.channel_mult) - 1)  # its middle always attends
    heads = ("num_heads", u.num_heads) if u.num_heads else ("head_dim", u.head_dim)
    for i, mult in enumerate(u.channel_mult):
        width = u.channels * mult
        if width != int(width) or width < 1:
            problems.append(
                f"{at}.channel_mult: {mult:g} x channels = {u.channels} gives {width:g} channels; expected a "
                "whole number."
            )
            continue
        for what, size in (("norm_groups", u.norm_groups), *([heads] if i in attending else [])):
            if int(width) % size:
                problems.append(f"{at}.{what} = {size} does not divide {int(width)} channels; use a divisor.")
    return problems


def _label_problems(at: str, m: Model) -> list[str]:
    problems = []
    if m.finetune.text_drop and m.finetune.num_steps:
        problems.append(
            f"{at}.finetune.text_drop = {m.finetune.text_drop:g} with unet.conditioning = label: there is no "
            "text to drop; set it to 0."
        )
    if m.unet.null_text == "empty":
        problems.append(
            f"{at}.unet.null_text = empty with unet.conditioning = label: there is no text; remove it."
        )
    return problems
