"""What is wrong with the files that an experiment starts from."""

from __future__ import annotations

import glob
import pathlib
import re

from synthaug.checks import initial
from synthaug.checks.scoring import file_problems
from synthaug.data.real_labels import read_real_labels
from synthaug.errors import ConfigError, SynthaugError
from synthaug.experiment import Experiment
from synthaug.prompts import prompt_problems


def check_inputs(experiment: Experiment, where: str) -> None:
    """Raises ConfigError if what an experiment starts from is not there or does not fit it."""
    problems = [*_data_problems(experiment), *initial.init_problems(experiment), *file_problems(experiment)]
    if not problems:
        problems += [*_label_problems(experiment), *_weight_problems(experiment)]
    if experiment.text_encoder.kind == "t5":
        from synthaug.checks.text import t5_problems

        problems += t5_problems(experiment.text_encoder.path, experiment.text_encoder)
    if experiment.cascade:
        problems += prompt_problems(experiment.prompts, num_classes=experiment.data.num_classes)
    for problem in problems:
        raise ConfigError(f"{where}: {problem}")


def _data_problems(e: Experiment) -> list[str]:
    """Files and folders of images that are not there."""
    data, problems = e.data, []
    wanted = {f"data.{knob}": getattr(data, knob) for knob in ("val_path", "val_labels", "class_list")}
    if data.source != "digits":
        wanted["data.path"] = data.path
        if not data.path:
            problems.append(f"data.path is empty; source = {data.source} expects where its images are.")
    for name, made in e.sets.items():
        wanted |= {f"sets.{name}.path": made.path, f"sets.{name}.class_list": made.class_list}
    for name, one in e.val_sets.items():
        files = {"path": one.path, "class_list": one.class_list, "real_labels": one.real_labels}
        wanted |= {f"val_sets.{name}.{knob}": path for knob, path in files.items()}
    for name, model in e.classify.models.items():
        if model.init not in ("scratch", *e.classify.models):
            wanted[f"classify.models.{name}.init"] = model.init
    for knob, path in sorted(wanted.items()):
        if path and not _exists(path):
            problems.append(
                f"{knob} = {path!r}: nothing is there; expected a file, folder or pattern that exists."
            )
    folders = {"path": data.path, **({"val_path": data.val_path} if data.val_path else {})}
    for knob, path in folders.items() if data.source == "folder" else ():
        if path and _exists(path) and not pathlib.Path(path).is_dir():
            problems.append(f"data.{knob} = {path!r} is no folder; expected one with a folder per class.")
    return problems


def _label_problems(e: Experiment) -> list[str]:
    """What is wrong inside ImageNet-ReaL's labels; the file is small, and read whole."""
    problems = []
    for name, one in e.val_sets.items() if "classify" in e.stages else ():
        if one.source != "val":
            continue
        try:
            found = len(read_real_labels(one.real_labels, e.data.num_classes))
        except SynthaugError as error:
            problems.append(f"val_sets.{name}.real_labels: {error}")
            continue
        if found < e.data.num_val - e.data.max_corrupt:
            problems.append(
                f"val_sets.{name}.real_labels = {one.real_labels!r}: has labels of {found} images, "
                f"data.num_val is {e.data.num_val}; expected a list for each: fetch the file again."
            )
    return problems


def _weight_problems(e: Experiment) -> list[str]:
    """What is wrong with the files that classifiers start from, by the names and shapes of their tensors."""
    problems = []
    for name, model in e.classify.models.items() if "classify" in e.stages else ():
        if model.init in ("scratch", *e.classify.models):
            continue
        from synthaug.weights.classifiers import check_start  # a second of imports, which few studies need

        try:
            check_start(model.init, model, e.data.channels)
        except SynthaugError as error:
            problems.append(f"classify.models.{name}: {error}")
    return problems


def _exists(path: str) -> bool:
    """Returns whether a path is there, or a pattern fits one."""
    full = str(pathlib.Path(path).expanduser())
    any_number = re.sub(r"\{[0-9]+\.\.[0-9]+\}", "*", full)  # WebDataset's {000..146}
    return pathlib.Path(full).exists() or bool(path and glob.glob(any_number, recursive=True))
