"""The command as a user calls it, and what it says to bad input."""

import shutil

import pytest
from conftest import assert_one_line_error, png, run_command, run_in_process, zip_folder

SMALL = ("--image_size_px=16", "--cells_per_shard=8")


def preprocess(source, data_dir, *flags):
    """The command within this process, and so without worker processes."""
    paths = (f"--source={source}", f"--data_dir={data_dir}")
    return run_in_process("pipeline.preprocess", *paths, "--pipeline_options=--runner=FnApiRunner", *flags)


def data_sets(data_dir):
    return sorted(path.parent.parent.name for path in data_dir.glob("tfds_malaria/*/1.0.0/manifest.json"))


def test_all_configs_in_one_call_then_again(source, tmp_path):
    configs = "--config=by_patient,by_cell,folds"
    paths = (f"--source={source}", f"--data_dir={tmp_path / 'data'}")
    first = run_command("pipeline.preprocess", *paths, configs, *SMALL)
    assert first.returncode == 0, first.stderr
    assert data_sets(tmp_path / "data") == ["by_cell", "by_patient", "folds"]
    assert "36/36" in first.stderr
    assert "cells/s" in first.stdout
    assert str(tmp_path / "data" / "tfds_malaria" / "folds" / "1.0.0") in first.stdout
    assert "WARNING" not in first.stderr
    second = preprocess(source, tmp_path / "data", configs, *SMALL)
    assert second.returncode == 0
    assert second.stdout.count("already there") == 3


def test_cells_of_unknown_patients(source, tmp_path):
    result = preprocess(nameless(source), tmp_path / "data", "--config=by_cell", *SMALL)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("cells of unknown patients (") == 3


@pytest.mark.parametrize(
    ("regex", "warning"),
    [
        (r"^(C\d+|c\d+)", "patients that differ only in upper and lower case count as different\n"),
        (r"^(\w+)", "each cell has a patient of its own; check --patient_regex or --patient_column\n"),
    ],
)
def test_patients_that_look_wrong(regex, warning, source, tmp_path):
    next((source / "Uninfected").glob("C1P1*")).rename(source / "Uninfected" / "c1.png")
    result = preprocess(source, tmp_path / "data", f"--patient_regex={regex}", *SMALL)
    assert [line for line in result.stdout.splitlines(keepends=True) if "warning" in line] == [f"  warning: {warning}"]


def test_other_peoples_data(tmp_path):
    folder = tmp_path / "mine"
    for name in ("healthy", "infected"):
        (folder / name).mkdir(parents=True)
        for i in range(24):
            (folder / name / f"pat{i % 6}-{i}.png").write_bytes(png(i))
    flags = ("--class_folders=parasitized=infected,uninfected=healthy", r"--patient_regex=^(pat\d+)-")
    result = preprocess(zip_folder(folder, tmp_path / "mine.zip"), tmp_path / "data", *flags, *SMALL)
    assert result.returncode == 0, result.stderr
    assert "48" in result.stderr


def empty_class(source):
    for path in (source / "Parasitized").iterdir():
        path.unlink()
    (source / "Parasitized" / "Thumbs.db").write_bytes(b"x")
    return source


def no_class_folders(source):
    (source / "Parasitized").rename(source / "a")
    (source / "Uninfected").rename(source / "b b")
    return source


def one_class_folder(source):
    (source / "Parasitized").rename(source / "cells")
    return source


def no_zip(source):
    path = source.parent / "cells.zip"
    path.write_bytes(b"this is no archive")
    return path


def cut_off_zip(source):
    path = zip_folder(source, source.parent / "cells.zip")
    path.write_bytes(path.read_bytes()[:-500])
    return path


def nothing(source):
    return source.parent / "nothing"


def nameless(source):
    for number, path in enumerate(sorted(source.rglob("*.png"))):
        path.rename(path.with_name(f"{number}.png"))
    return source


def some_splits(source):
    shutil.copytree(source, source.parent / "cells/Training")
    shutil.copytree(source, source.parent / "cells/test")
    return source.parent / "cells"


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (nothing, ["nothing does not exist", "expected a folder, a .zip file, or 'nih'"]),
        (
            no_class_folders,
            [
                "has no class folders",
                "expected Uninfected/ and Parasitized/",
                "--class_folders=uninfected=b b,parasiti",
            ],
        ),
        (some_splits, ["class folders in the split test/ and in Training/; expected train, val", "rename the others"]),
        (
            one_class_folder,
            ["has no class folders (it holds Uninfected, cells)", "expected Uninfected/ and Parasitized/"],
        ),
        (empty_class, ["has no image in Parasitized/", "expected files ending in"]),
        (no_zip, ["is not a zip archive or is cut off", "download it again"]),
        (cut_off_zip, ["is not a zip archive or is cut off"]),
        (nameless, ["36 of 36 file names", "tell no patient", "=^(C\\d+); or use --config=by_cell"]),
    ],
)
def test_bad_sources(spoil, expected, source, tmp_path):
    result = preprocess(spoil(source), tmp_path / "data", *SMALL)
    assert_one_line_error(result, *expected)
    assert data_sets(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--pipeline_options=--direct_num_workers=x",), ["invalid int value: 'x'"]),
        (("--data_dir=https://example.org/x",), ["--data_dir=https://example.org/x cannot be reached", "s3://"]),
        (("--source=https://example.org/x.zip",), ["--source=https://example.org/x.zip cannot be reached"]),
        (("--source=",), ["--source is empty"]),
        (["--config=by_magic"], ["--config=by_magic is unknown", "by_patient, by_cell, folds"]),
        (["--config="], ["--config= is unknown", "by_patient, by_cell, folds"]),
        (["--class_folders=a"], ["--class_folders or --class_names is a; expected one bare name for each"]),
        (["--class_folders=P1/neg,P1/pos"], ["is P1/neg,P1/pos; expected one bare name"]),
        (["--patient_regex=("], ["is not a regular expression"]),
        (["--pipeline_options=nonsense"], ["'nonsense' is no option"]),
        (["--pipeline_options=--runner=DataflowRunner"], ["the runner failed"]),
        (["--pipeline_options=--runner=Nobody"], ["--pipeline_options=--runner=Nobody"]),
        (["--data_dir="], ["--data_dir is empty"]),
        (["extra"], ["got the argument 'extra'"]),
    ],
)
def test_bad_flags(flags, expected, source, tmp_path):
    result = preprocess(source, tmp_path / "data", *SMALL, *flags)
    assert_one_line_error(result, *expected)
    assert data_sets(tmp_path / "data") == []


def test_a_version_folder_is_no_data_dir(source, tmp_path):
    preprocess(source, tmp_path / "data", *SMALL)
    inside = tmp_path / "data" / "tfds_malaria" / "by_patient" / "1.0.0"
    for folder in (inside, inside.parent.parent):
        result = preprocess(source, folder, *SMALL)
        assert_one_line_error(result, "is a data set's own folder", f"give {tmp_path / 'data'}")
    assert not (inside / "tfds_malaria").exists()


def test_a_data_dir_that_cannot_be_written(source, tmp_path):
    (tmp_path / "data").write_text("a file is in the way")
    assert_one_line_error(preprocess(source, tmp_path / "data", *SMALL), "cannot write to", "data")
