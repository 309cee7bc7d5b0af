"""Which runs are evaluated together, and whether their training has seen the test patients."""

import pytest
from evaluating import IDENTITY, NO_LEAK, run_record

from pipeline.errors import InputError
from trainers import run_dir
from trainers.evaluation import runs


def make_run(folder, **flags):
    folder.mkdir(parents=True)
    (folder / run_dir.MODEL).write_bytes(b"model")
    record = run_record()
    record["flags"] |= flags
    run_dir.write(str(folder), record)
    return str(folder)


def make_folds(folder, folds):
    return [make_run(folder / f"fold_{i}", config="folds", test_split=f"fold_{i}") for i in folds]


def test_folds_are_pooled_by_model_and_folder(tmp_path):
    folds = make_folds(tmp_path / "a", (1, 0))
    config, (pooled,) = runs.group(folds, None, None)
    assert (config, pooled.name, pooled.split) == ("folds", "basic_cnn", "fold_0+fold_1")
    _, pooled = runs.group([*folds, *make_folds(tmp_path / "b", (0, 1))], None, None)
    assert [item.name for item in pooled] == ["a", "b"]
    _, single = runs.group(folds, None, "fold_4")
    assert [item.name for item in single] == ["fold_1", "fold_0"]


def test_runs_that_do_not_fit_together(tmp_path):
    folds = make_folds(tmp_path / "a", (0, 1))
    again = make_run(tmp_path / "a" / "2", config="folds", test_split="fold_0")
    other = make_run(tmp_path / "b" / "fold_0", config="folds", test_split="fold_3")
    cell = make_run(tmp_path / "c" / "0", config="by_cell")
    for run_dirs, split, message in (
        ([*folds, again], None, "share a --test_split"),
        ([*folds, other], None, "runs of different folds"),
        ([folds[0], cell], None, "differ in their --config: by_cell, folds"),
        ([folds[0], folds[0]], None, "names no folder, or one twice"),
        ([folds[0], other], "fold_4", "could not tell apart"),
        ([], None, "names no folder, or one twice"),
    ):
        with pytest.raises(InputError, match=message):
            runs.group(run_dirs, None, split)


def test_leaks():
    record = run_record(train_patients=["C1", "C2"], validation_patients=["C3"])
    no_leak = runs.find_leak(record, ["C4", "C5"], IDENTITY)
    assert no_leak == NO_LEAK
    leak = runs.find_leak(record, ["C1", "C3", "C9"], IDENTITY | {"fingerprint": "other"})
    assert leak == NO_LEAK | {"is_external": True, "train_patients": ["C1"], "validation_patients": ["C3"]}
    assert runs.merge_leaks([no_leak, leak]) == leak


def test_another_data_set_of_the_same_source_is_named():
    settings = {"patient_regex": "^(.+)_", "split_seed": 7}
    record = run_record(train_patients=["C1"], validation_patients=["C3"], settings=settings)
    leak = runs.find_leak(record, ["C1"], IDENTITY | {"settings": settings | {"split_seed": 8}})
    assert leak["data_differences"] == ["its data set's split_seed was 7, is 8"]
    assert leak["train_patients"] == ["C1"]
    leak = runs.find_leak(record, ["C1"], IDENTITY | {"settings": settings | {"patient_regex": "^(.)"}})
    assert leak["train_patients"] is None, "these are other names of patients"


def test_unknown_patients_cannot_be_checked():
    unknown = runs.find_leak(run_record(train_patients=["", "C1"], validation_patients=["C3"]), ["C4"], IDENTITY)
    assert (unknown["train_patients"], unknown["validation_patients"]) == (None, [])
    known = runs.find_leak(run_record(), ["C4"], IDENTITY)
    assert runs.merge_leaks([unknown, known])["train_patients"] is None
