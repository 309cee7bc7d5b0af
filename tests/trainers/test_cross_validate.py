"""Cross-validation: which folds a run sees, what goes to the trainer, and the whole command on synthetic cells."""

import json

import pytest
from conftest import ROOT, assert_one_line_error, run_command

from pipeline.errors import InputError
from trainers import folds


def test_every_fold_is_judged_once_and_never_seen():
    for fold in range(5):
        flags = dict(flag.lstrip("-").split("=") for flag in folds.trainer_flags(fold))
        assert flags["config"] == "folds"
        assert flags["test_split"] == f"fold_{fold}"
        parts = [*flags["train_split"].split("+"), flags["validation_split"], flags["test_split"]]
        assert sorted(parts) == [f"fold_{i}" for i in range(5)]


def test_what_goes_to_the_trainer():
    given = ["--epochs=2", "--config=by_patient", "--augmentation=flips"]
    assert folds.check_trainer_flags(given) == ["--epochs=2", "--augmentation=flips"]
    with pytest.raises(InputError, match="--train_split is decided by the fold"):
        folds.check_trainer_flags(["--train_split=fold_0"])
    with pytest.raises(InputError, match="got the argument '12'; expected flags in the form --flag=value"):
        folds.check_trainer_flags(["--epochs", "12"])


def test_mistakes_are_one_line(data_dir, tmp_path):
    flags = ("--model=basic_cnn", f"--output_dir={tmp_path / 'cv'}")
    assert_one_line_error(run_command("trainers.cross_validate", *flags, f"--data_dir={tmp_path}"), "has no data set")
    result = run_command("trainers.cross_validate", *flags, f"--data_dir={data_dir}", "--epochs=0")
    assert "--epochs" in result.stderr, "the trainer says it"
    assert "the trainer of fold 0 ended with status 1" in result.stderr
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    result = run_command("trainers.cross_validate", "--model=none", *flags[1:], f"--data_dir={data_dir}")
    assert "basic_cnn" in result.stderr
    assert "Traceback" not in result.stderr


def test_five_folds_make_one_verdict_and_continue(data_dir, tmp_path):
    command = ("trainers.cross_validate", "--model=basic_cnn", f"--data_dir={data_dir}", f"--output_dir={tmp_path}")
    flagfile = f"--flagfile={ROOT}/trainers/flagfiles/basic_cnn.flags"
    flags = (flagfile, "--epochs=1", "--batch_size=32", "--num_resamples=100")
    result = run_command(*command, *flags)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())["models"]["basic_cnn"]
    splits = json.loads((data_dir / "tfds_malaria/folds/1.0.0/manifest.json").read_text())["splits"]
    assert found["num_cells"] == sum(split["num_cells"] for split in splits.values())
    assert found["leak"] == {"is_external": False, "train_patients": [], "validation_patients": []}
    assert len(found["folds"]["auc"]["values"]) == 5
    assert "accuracy" in result.stdout
    assert "over 5 folds" in result.stdout
    run = json.loads((tmp_path / "fold_2" / "run.json").read_text())
    patients = [patient for fold in (4, 0, 1) for patient in splits[f"fold_{fold}"]["patients"]]
    assert run["data"]["train_patients"] == sorted(patients)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("fold_*/model.keras")}
    again = run_command(*command, *flags)
    assert again.stdout.count("is trained already") == 5
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("fold_*/model.keras")} == before
