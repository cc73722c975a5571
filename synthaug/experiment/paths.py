"""Paths of a study, from wherever the command was given."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from synthaug.experiment.classifier import Classifier
from synthaug.experiment.scoring import Encoder
from synthaug.experiment.study import Experiment


def with_absolute_paths(experiment: Experiment) -> Experiment:
    """Returns the experiment with every path absolute: a scheduler's job starts in another folder."""

    def absolute(settings: Any, *names: str) -> Any:
        paths = {name: getattr(settings, name) for name in names if getattr(settings, name)}
        whole = {name: str(pathlib.Path(path).expanduser().absolute()) for name, path in paths.items()}
        return dataclasses.replace(settings, **whole)

    data = absolute(experiment.data, "path", "val_path", "val_labels", "class_list")
    sets = {name: absolute(made, "path", "class_list") for name, made in experiment.sets.items()}
    val_sets = {n: absolute(v, "path", "class_list", "real_labels") for n, v in experiment.val_sets.items()}
    prompts = absolute(experiment.prompts, "names_file")
    cascade = {}
    for name, model in experiment.cascade.items():
        init = model.finetune.init
        if init != "scratch":
            init = str(pathlib.Path(init).absolute())
        cascade[name] = dataclasses.replace(model, finetune=dataclasses.replace(model.finetune, init=init))
    text = absolute(experiment.text_encoder, "path")
    classify, sweep, score = experiment.classify, experiment.sweep, experiment.score

    def absolute_init(model: Classifier) -> Classifier:
        return model if model.init in ("scratch", *classify.models) else absolute(model, "init")

    def absolute_encoder(encoder: Encoder) -> Encoder:
        whole: Encoder = absolute(encoder, "path")
        return dataclasses.replace(whole, classifier=absolute_init(encoder.classifier))

    models = {name: absolute_init(model) for name, model in classify.models.items()}
    swept = {name: absolute_init(model) for name, model in sweep.classifiers.items()}
    further = {name: absolute_encoder(encoder) for name, encoder in score.further.items()}
    return dataclasses.replace(
        experiment,
        data=data,
        sets=sets,
        val_sets=val_sets,
        prompts=prompts,
        text_encoder=text,
        cascade=cascade,
        sweep=dataclasses.replace(sweep, classifiers=swept),
        score=dataclasses.replace(score, encoder=absolute_encoder(score.encoder), further=further),
        classify=dataclasses.replace(classify, models=models),
    )
