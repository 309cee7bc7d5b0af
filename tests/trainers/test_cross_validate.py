"""Cross-validation: which folds a run sees, what goes to the trainer, and the report on all cells."""

import json
import os
import signal
import sys
from pathlib import Path
from unittest import mock

import forked
import pytest
from conftest import ROOT, assert_one_line_error, run_in_process, small_model, write_run
from evaluating import NO_LEAK

from trainers.training import signals

FOLDS = [f"fold_{fold}" for fold in range(5)]


def cross_validate(data_dir, output_dir, *flags, model="basic_cnn"):
    return run_in_process(
        "trainers.cross_validate", f"--model={model}", f"--data_dir={data_dir}", f"--output_dir={output_dir}", *flags
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--train_split=fold_0"], "--train_split is set for each fold"),
        (["--epochs", "12"], "got the argument '12'; expected flags in the form --flag=value"),
        (["--data_dir=none"], "has no data set"),
        (["--model=none"], "basic_cnn"),
    ],
)
def test_flag_mistakes(flags, expected, data_dir, tmp_path):
    assert_one_line_error(cross_validate(data_dir, tmp_path / "cv", *flags), expected)


def test_a_mistake_of_the_trainers_flags(data_dir, tmp_path, capfd):
    result = cross_validate(data_dir, tmp_path / "cv", "--epochs=0")
    assert_one_line_error(result, "the trainer of fold 0 ended with status 1")
    assert "--epochs" in capfd.readouterr().err, "the trainer says it"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, -2)])
def test_signals_reach_the_trainer(number, status):
    """SIGTERM is passed on, Ctrl-C has reached it already."""
    parent, trainer = os.getpid(), "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); time.sleep(0.1)"
    also = "os.kill(os.getpid(), signal.SIGINT)" if number == signal.SIGINT else "pass"
    code = f"import os, signal, sys, time; {trainer}; os.kill({parent}, {int(number)}); {also}; time.sleep(60)"
    assert signals.run_trainer([sys.executable, "-c", code]) == status


def test_five_folds_make_one_report_and_continue(data_dir, tmp_path):
    flags = (f"--flagfile={ROOT}/trainers/flagfiles/basic_cnn.flags", "--epochs=1", "--batch_size=32")
    statuses = [0, 0, 75]  # the third run is preempted before it begins
    outputs = []

    def run_trainer(command):
        """Trains on the first fold alone; the other runs have the splits that they are given, and untrained models."""
        if statuses and (status := statuses.pop(0)):
            return status
        given = dict(flag.removeprefix("--").split("=", 1) for flag in command[3:])
        folder = Path(given["run_dir"])
        if folder.name != "fold_0":
            if not folder.exists():
                splits = [given[f"{name}_split"] for name in ("train", "validation", "test")]
                write_run(folder, data_dir, small_model(), given["config"], splits)
            return 0
        result = forked.run(tmp_path / f"{len(outputs)}.txt", *command[2:])
        outputs.append(result.stdout)
        return result.returncode

    with mock.patch("trainers.training.signals.run_trainer", run_trainer):
        assert cross_validate(data_dir, tmp_path, *flags, "--num_resamples=100").returncode == 75
        assert not (tmp_path / "report").exists()
        result = cross_validate(data_dir, tmp_path, *flags, "--num_resamples=100")
    assert result.returncode == 0, result.stderr
    assert ["is trained already" in output for output in outputs] == [False, True]
    entry = json.loads((tmp_path / "report" / "metrics.json").read_text())["models"]["basic_cnn"]
    splits = json.loads((data_dir / "tfds_malaria/folds/1.0.0/manifest.json").read_text())["splits"]
    assert entry["num_cells"] == sum(split["num_cells"] for split in splits.values())
    assert entry["leak"] == NO_LEAK
    assert len(entry["folds"]["auc"]["values"]) == 5
    assert "over 5 folds" in result.stdout
    for fold in FOLDS:
        record = json.loads((tmp_path / fold / "run.json").read_text())
        given = record["flags"]
        trained = given["train_split"].split("+")
        assert (given["config"], given["test_split"]) == ("folds", fold)
        assert sorted([*trained, given["validation_split"], fold]) == FOLDS
        patients = [patient for name in trained for patient in splits[name]["patients"]]
        assert record["data"]["train_patients"] == sorted(patients)
