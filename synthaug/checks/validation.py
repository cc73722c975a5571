"""What is wrong with the further validation sets."""

from __future__ import annotations

from synthaug.experiment import Experiment


def val_set_problems(e: Experiment) -> list[str]:
    """Returns what is wrong with the names and the settings of the validation sets."""
    problems = []
    for name, one in e.val_sets.items():
        at = f"val_sets.{name}"
        plain = name.isascii() and name and all(c.isalnum() or c in "-_" for c in name)
        if not plain or name in ("train", "val", "generated", *e.sets) or name.startswith("generated-"):
            problems.append(
                f"{at}: expected a name of letters, digits, '-' and '_' that no other set has; rename it."
            )
        if one.source == "val":
            if one.path or one.class_list or one.num_images:
                problems.append(
                    f"{at}: source = val takes real_labels alone; remove path, class_list, num_images."
                )
            if not one.real_labels:
                problems.append(
                    f"{at}.real_labels is empty; name ImageNet-ReaL's real.json, or another source."
                )
            if e.data.class_list:
                problems.append(
                    f"{at}.real_labels: its numbers are places in the sorted class keys; expected no "
                    "data.class_list that says otherwise: leave one of them out."
                )
        else:
            if not one.path or not one.num_images:
                problems.append(f"{at}: needs path and num_images; give both, e.g. num_images: 10000.")
            if one.source == "npz" and e.data.keep_original:
                problems.append(
                    f"{at}.source = npz holds pixels, no files, which data.keep_original asks for."
                )
            if one.real_labels:
                problems.append(
                    f"{at}.real_labels has no meaning with source = {one.source}; use source = val."
                )
    return problems
