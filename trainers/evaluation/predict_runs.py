"""Predicts what is to be judged: candidates and a data set in, `ModelPredictions` out."""

import numpy as np
from etils import epath

from pipeline.errors import InputError
from trainers.data import open_data_set
from trainers.evaluation import leak, predictions
from trainers.evaluation.data_set import DataSet
from trainers.evaluation.metrics import thresholds as choices
from trainers.evaluation.metrics.thresholds import Choice
from trainers.evaluation.model_predictions import ModelPredictions
from trainers.evaluation.predictions import Predictor
from trainers.evaluation.runs import Member, ModelRuns


def judge(candidate: ModelRuns, data_set: DataSet, batch_size: int, test_time_flips: bool) -> ModelPredictions:
    """Predicts all cells of a candidate, and what its thresholds are chosen on.

    Raises:
      InputError: if a model does not fit the data, or the cells are of one class only.
    """
    said, chosen, leaks = [], [], []
    for member, split in zip(candidate.members, data_set.open(candidate.members), strict=True):
        model = predictions.load_model(member.path)
        predictions.check_inputs(model, split, member.path)
        predict = predictions.predictor(model, batch_size, test_time_flips)
        found = predictions.predict_split(predict, split, batch_size, f"{candidate.name}: {split.expression}")
        _check_classes(found, split.expression, data_set.directory)
        said.append(found)
        chosen.append(_choose(candidate.name, member, data_set, predict, batch_size, test_time_flips))
        leaks.append(leak.check(member.run, found.patient_ids.tolist(), data_set.fingerprint))
    return ModelPredictions(
        candidate,
        predictions.concatenate(said),
        np.repeat(np.arange(len(said)), [len(part.labels) for part in said]),
        tuple(chosen),
        leak.merge(leaks),
        test_time_flips,
    )


def _check_classes(found: predictions.Predictions, expression: str, directory: epath.Path) -> None:
    if len(set(found.labels.tolist())) < 2:
        raise InputError(
            f"split {expression} of {directory} has cells of one class only; expected both uninfected and parasitized "
            "cells; give another --split"
        )


def _choose(
    name: str, member: Member, data_set: DataSet, predict: Predictor, batch_size: int, test_time_flips: bool
) -> Choice:
    """Thresholds and temperature of a run: kept in its folder, or chosen now on its own validation split."""
    if kept := choices.read(member.path, test_time_flips):
        return kept
    flags, data = member.run["flags"], member.run["data"]
    try:
        own_data_set = open_data_set(data_set.data_dir, flags["config"])
        if own_data_set.fingerprint != data["fingerprint"]:
            raise InputError("another source")
        split = own_data_set.open_split(flags["validation_split"], "validation_split")
    except InputError:
        return choices.UNCHOSEN  # the report says so
    found = predictions.predict_split(predict, split, batch_size, f"{name}: {split.expression}")
    if len(set(found.labels.tolist())) < 2:
        return choices.UNCHOSEN
    choice = choices.choose(split.expression, found)
    try:
        choices.write(member.path, test_time_flips, choice)
    except OSError as error:
        print(f"note: {member.path} cannot keep its operating points ({error}); trainers.predict will not know them")
    return choice
