"""What is wrong with the encoders, and with the numbers of images that the metrics ask for."""

from __future__ import annotations

import pathlib

from synthaug.config import did_you_mean
from synthaug.errors import SynthaugError
from synthaug.experiment import Encoder, Experiment, fewest_images

SUFFIXES = {"inception": (".pb", ".safetensors"), "dinov2": (".safetensors",)}
FILES = {
    "inception": "classify_image_graph_def.pb, or pytorch-fid's weights as safetensors",
    "dinov2": "the safetensors of DINOv2 ViT-L/14, e.g. model.safetensors of facebook/dinov2-large",
}
PICKLES = (".pth", ".pt", ".bin", ".pkl", ".ckpt")


def score_problems(e: Experiment) -> list[str]:
    """Returns what is wrong between the settings of the metrics and the rest; reads no file."""
    return [*encoder_problems(e), *_draw_problems(e), *_small_problems(e), *_sweep_problems(e)]


def file_problems(e: Experiment) -> list[str]:
    """Returns which encoders' weights are not there, or are none by the names in their files.

    Of safetensors files the shapes are looked at, too; of a frozen graph that none of it is cut off.
    """
    problems = []
    for at, one in _used(e).items():
        if one.kind not in FILES:
            continue
        if not pathlib.Path(one.path).expanduser().exists():
            problems.append(
                f"{at}.path = {one.path!r}: nothing is there; expected {FILES[one.kind]}: download it."
            )
            continue
        try:
            _check_file(one)
        except SynthaugError as error:
            problems.append(f"{at}.path: {error}")
    return problems


def _check_file(one: Encoder) -> None:
    if one.kind == "dinov2":
        from synthaug.weights.dinov2 import check_dinov2  # a second of imports, which few studies need

        check_dinov2(one.path)
    else:
        from synthaug.weights.inception import check_inception

        check_inception(one.path)


# ------------------------------------------------------------------------------------------ encoders


def encoder_problems(e: Experiment) -> list[str]:
    """Returns what is wrong with the encoders by themselves, and with what the filter asks of one."""
    problems = []
    for name in e.score.further:
        if not (name and name.isascii() and all(c.isalnum() or c in "-_" for c in name)):
            problems.append(
                f"score.further.{name}: expected a name of letters, digits, '-' and '_'; rename it."
            )
    problems += [
        f"{at}.init = {model.init}: an encoder is trained from random weights; expected scratch, remove it."
        for at, model in e.score.trained().items()
        if model.init != "scratch"
    ]
    for at, one in e.score.encoders().items():
        problems += _path_problems(at, one, used=at in _used(e))
    kind = e.score.encoder.kind
    if e.filter.min_confidence and kind != "classifier":
        problems.append(
            f"filter.min_confidence = {e.filter.min_confidence:g}: score.encoder.kind = {kind} does not know "
            "the classes of the study; use kind = classifier, or filter.duplicate_quantile alone."
        )
    return problems


def _used(e: Experiment) -> dict[str, Encoder]:
    """Returns the encoders that some stage looks through, by their knobs."""
    scores = "score" in e.stages and (e.cascade or e.sets)
    sweeps = "sweep" in e.stages and e.cascade and e.sweep.phases
    main = {"score.encoder": e.score.encoder} if scores or sweeps or e.filter.active else {}
    return e.score.encoders() if scores else main


def _path_problems(at: str, one: Encoder, *, used: bool) -> list[str]:
    if one.kind not in FILES:
        return [
            f"{at}.{knob} has no meaning with kind = {one.kind}; remove it, or set kind."
            for knob, odd in (("path", bool(one.path)), ("backend", one.backend != "flax"))
            if odd
        ]
    if one.kind != "inception" and one.backend != "flax":
        return [f"{at}.backend = {one.backend} has no meaning with kind = {one.kind}; remove it."]
    if not one.path:
        return [f"{at}.path is empty; kind = {one.kind} expects {FILES[one.kind]}."] if used else []
    suffix = pathlib.PurePath(one.path).suffix
    if suffix in PICKLES:
        return [
            f"{at}.path = {one.path!r} is a pickle, which is never loaded here; expected {FILES[one.kind]}: "
            f"synthaug/weights/{one.kind}.py says how to convert it."
        ]
    if suffix not in SUFFIXES[one.kind] and (suffix or one.kind == "inception"):  # dinov2 may be a folder
        endings = " or ".join(SUFFIXES[one.kind])
        return [f"{at}.path = {one.path!r}; expected a name that ends in {endings}: {FILES[one.kind]}."]
    if one.backend == "tensorflow" and suffix != ".pb":
        return [
            f"{at}.backend = tensorflow runs the frozen graph, and path = {one.path!r} is none; expected "
            "classify_image_graph_def.pb, or backend = flax."
        ]
    return []


# ------------------------------------------------------------------------------------ numbers of images


def _sets(e: Experiment) -> dict[str, int]:
    """Returns the images of every set that is scored or compared with, by the knob that says so."""
    sets = {"data.num_train": e.data.num_train, "data.num_val": e.data.num_val}
    if "score" in e.stages:
        sets |= {f"sets.{name}.num_images": made.num_images for name, made in e.sets.items()}
    return {**_phases(e), **sets}


def _phases(e: Experiment) -> dict[str, int]:
    return {f"sweep.phases.{name}.num_images": phase.num_images for name, phase in e.sweep.phases.items()}


def _draw_problems(e: Experiment) -> list[str]:
    """Splits, neighbours and draws that some set has too few images for."""
    s, problems = e.score, []
    sets = _sets(e) if _used(e) else {}
    for key, size in sets.items():
        left = f"{key} = {size}"
        if size > s.max_images:
            left += f" and score.max_images = {s.max_images} leave"
        kept = min(size, s.max_images)
        if s.splits > size:
            problems.append(f"score.splits = {s.splits} exceeds {key} = {size} images; lower splits.")
        if s.neighbours >= kept:
            problems.append(f"score.neighbours = {s.neighbours} needs more images than {left}; lower it.")
    largest = max(sets.values(), default=0)
    for size in s.sizes:
        if sets and size > largest:
            problems.append(
                f"score.sizes: {size} images; the largest set that is scored has {largest}; lower it."
            )
    return problems


def _small_problems(e: Experiment) -> list[str]:
    """Sets that are too small for Inception: its 2048 features have no full covariance there."""
    if e.score.allow_small_n:
        return []
    problems = []
    for at, one in _used(e).items():
        main = at == "score.encoder"  # the sweep looks through that one alone
        sets = {key: size for key, size in _sets(e).items() if main or key not in _phases(e)}
        sets |= {"score.sizes": min(e.score.sizes)} if e.score.sizes else {}
        problems += [
            f"{key} = {size} is too few for {at}.kind = {one.kind}: FID of less than "
            f"{fewest_images(one.kind)} images is mostly bias; use more, or set score.allow_small_n = true."
            for key, size in sets.items()
            if size < fewest_images(one.kind)
        ]
    return problems


def _sweep_problems(e: Experiment) -> list[str]:
    """Phases that ask for a network, or for a metric, that there is not."""
    known = {**e.classify.models, **e.sweep.classifiers}
    problems = [
        f"sweep.classifiers.{name}: classify.models has a {name}, too, and phase.cas_classifier could mean "
        "either; rename one."
        for name in sorted(e.classify.models.keys() & e.sweep.classifiers.keys())
    ]
    for name, phase in e.sweep.phases.items():
        at = f"sweep.phases.{name}"
        if phase.choose == "inception_score" and e.score.encoder.kind == "dinov2":
            problems.append(
                f"{at}.choose = inception_score: score.encoder.kind = dinov2 has no classes, hence no such "
                "score; choose by fid or cas."
            )
        if phase.cas_classifier and phase.cas_classifier not in known:
            problems.append(
                f"{at}.cas_classifier = {phase.cas_classifier!r} is unknown"
                f"{did_you_mean(phase.cas_classifier, known)}"
            )
        elif phase.cas_classifier and known[phase.cas_classifier].init != "scratch":
            problems.append(
                f"{at}.cas_classifier = {phase.cas_classifier}: the CAS of a point is that of random weights "
                "trained on its images, and this one starts from others; name one with init = scratch."
            )
        if phase.cas_classifier and not phase.cas_steps:
            problems.append(
                f"{at}.cas_classifier = {phase.cas_classifier}: cas_steps = 0 trains nothing; set cas_steps."
            )
    return problems
