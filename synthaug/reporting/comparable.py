"""The one place that says which of our numbers may be set against which number of the paper.

A difference is shown only where it means something: the same thousand classes, the same network at the same
input, a generated set of the same size, and for FID the same features. Everything else stands beside the
paper's numbers for orientation, without a difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synthaug.reporting import paper
from synthaug.reporting.data import Row

CLASSES, NUM_TRAIN, NUM_VAL = 1000, 1_281_167, 50_000
CAS_RESOLUTION = 256
"""px of the prepared real images in the CAS protocol (paper, section 4); 0 in a row is the untouched file."""

CAS_NETWORKS = ("cas", "resnet50", "resnet50-cas")

GENERATORS = {
    "imagen": paper.OWN,
    "biggan": "BigGAN-deep",
    "vqvae": "VQ-VAE-2",
    "cdm": "CDM",
    "sr3": "SR3",
    "ldm": "LDM-4",
    "dit": "DiT-XL/2",
    "admup": "ADM + upsampling",
    "adm": "ADM",
    "rinnoise": "RIN + noise schedule",
    "rin": "RIN",
    "improvedddpm": "Improved DDPM",
    "iddpm": "Improved DDPM",
    "simplediffusionunet": "Simple Diffusion (U-Net)",
    "simplediffusionuvit": "Simple Diffusion (U-ViT L)",
}
"""How the name of a set made elsewhere begins, letters and digits alone -> the paper's name for it."""


def same_data(results: Mapping[str, Any]) -> bool:
    """Returns whether the study has the paper's images: as many, of as many classes, as ImageNet-1K."""
    data = results["data"]
    return bool(data["num_classes"] == CLASSES and _copies_of_imagenet(data["num_train"]) == 1)


def _copies_of_imagenet(num_images: int) -> int:
    """Returns how often as many images as ImageNet's train split has, to 1 %; 0 for anything between."""
    copies = round(num_images / NUM_TRAIN)
    return copies if copies and abs(num_images / NUM_TRAIN / copies - 1) < 0.01 else 0


FID_PROTOCOL = (
    "A difference is written only under the paper's protocol: Inception of 2015-12-05, the images resized by "
    "its graph alone, as many images as the train split of ImageNet-1K (the paper's numbers most likely rest "
    "on so many, and FID falls with their number), and as reference that whole split, or all 50,000 "
    "validation images. The hash of Inception's weights stands below; we do not know that of the paper's."
)
"""What captions say of `same_fid`."""


def is_inception(row: Row) -> bool:
    """Returns whether a row's features are Inception's, the paper's encoder."""
    return str(row["encoder"]).startswith("inception")


def same_features(row: Row) -> bool:
    """Returns whether a row's features are those of the paper: Inception's, resized by its graph alone."""
    return is_inception(row) and str(row["resize"]).startswith("TF1")


def same_inception_score(row: Row) -> bool:
    """Returns whether an Inception Score may be set against the paper's: the features, of as many images."""
    return same_features(row) and _copies_of_imagenet(row["n"]) >= 1


def same_fid(row: Row, *, num_images: int = NUM_TRAIN) -> bool:
    """Returns whether a FID may be set against the paper's.

    Args:
        row: of `score` or `sweep`.
        num_images: that the paper's FID rests on; of the train split's number also whole multiples count.
    """
    enough = _copies_of_imagenet(row["n"]) >= 1 if num_images == NUM_TRAIN else _near(row["n"], num_images)
    whole = {"train": NUM_TRAIN, "val": NUM_VAL}.get(row["reference"], 0)
    return same_features(row) and enough and bool(whole) and _near(row["n_reference"] or 0, whole)


def _near(found: int, expected: int) -> bool:
    return abs(found - expected) < 0.01 * expected


def same_proxy(row: Row) -> bool:
    """Returns whether the CAS of a sweep row is the paper's: a ResNet-50's, of one copy of the split."""
    network = row["cas"] is not None and row.get("cas_network") == "resnet50"
    return network and _copies_of_imagenet(row["n"]) == 1


def generator(results: Mapping[str, Any], name: str) -> str:
    """Returns the paper's name for the generator of a set; empty if the paper has none like it.

    Args:
        results: what results.json holds.
        name: of the set, as in classify rows (generated-256) or score rows (generated).
    """
    plain = "".join(c for c in name.lower() if c.isalnum())
    for start, model in GENERATORS.items():
        if plain.startswith(start) and not plain.startswith("imagenet"):
            return model
    tuned = {text for made in results["sets"] if made["tuned"] for text in (made["name"], made["set"])}
    return paper.OWN if name in tuned else ""


def table_1(results: Mapping[str, Any], name: str, resolution: int) -> paper.Quality | None:
    """Returns the line of Table 1 that a scored set repeats."""
    model = generator(results, name) if same_data(results) else ""
    return next((r for r in paper.TABLE_1 if (r.model, r.resolution) == (model, resolution)), None)


def is_cas_network(row: Row) -> bool:
    """Returns whether a classify row is the ResNet-50 of the CAS protocol: prepared images of 256 px."""
    return row["model"] in CAS_NETWORKS and row["resolution"] == CAS_RESOLUTION


def table_2(results: Mapping[str, Any], row: Row) -> paper.Cas | None:
    """Returns the column of Table 2 that a classify row repeats."""
    if not same_data(results) or not is_cas_network(row) or _copies_of_imagenet(row["n_train"]) != 1:
        return None
    if row["mix"] == "real":
        return paper.TABLE_2[0]
    if row["mix"] != "generated" or row["copies"] != 1:
        return None
    model = generator(results, row["set"])
    same = [r for r in paper.TABLE_2[1:] if r.trained_on == model]
    exact = [r for r in same if r.resolution == row["set_resolution"]]
    return next(iter(exact), None)


def table_3(results: Mapping[str, Any], row: Row) -> paper.Mix | None:
    """Returns the line of Table 3 with the network of a row at its input; it crops untouched real images."""
    if not same_data(results) or row["resolution"]:
        return None
    return next((r for r in paper.TABLE_3 if (r.name, r.input) == (row["model"], row["input"])), None)


def table_3_set(results: Mapping[str, Any], name: str, resolution: int, copies: int) -> bool:
    """Returns whether a generated set is that of Table 3: one copy of the fine-tuned cascade's at 1024 px."""
    return resolution == 1024 and copies == 1 and generator(results, name) == paper.OWN


def table_4(results: Mapping[str, Any], row: Row, name: str, resolution: int) -> list[paper.Value]:
    """Returns the paper's ResNet-50 top-1 percent with 0, 1, ... copies of a set; empty if it has none.

    The values at 64 px are Fig. 6, digitised; there the real images have 64 px, too.

    Args:
        results: what results.json holds.
        row: any classify row of the classifier.
        name: of the generated set.
        resolution: of the generated set, px.
    """
    if (
        not same_data(results)
        or row["model"] != "resnet50"
        or row["resolution"] != (64 if resolution == 64 else 0)
    ):
        return []
    return published_sizes(resolution) if generator(results, name) == paper.OWN else []


def published_sizes(resolution: int) -> list[paper.Value]:
    """Returns Table 4's column of a set of this size, or Fig. 6's curve; by copies from 0."""
    if resolution == 64:
        return [paper.Value(v) for v in paper.DIGITISED_FIGURE_6]
    columns = {256: [r.top1_256 for r in paper.TABLE_4], 1024: [r.top1_1024 for r in paper.TABLE_4]}
    return columns.get(resolution, [])
