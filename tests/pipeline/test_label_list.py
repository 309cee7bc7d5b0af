"""Data sets of which a list corrects labels or leaves out cells."""

import json

import pytest
from conftest import assert_one_line_error, run_in_process

from pipeline.cells import LABELS
from trainers.data import open_data_set
from trainers.input_pipeline import batching

SMALL = ("--image_size_px=16", "--cells_per_shard=8", "--pipeline_options=--runner=FnApiRunner")


def preprocess(source, data_dir, labels, *flags):
    return run_in_process(
        "pipeline.preprocess",
        f"--source={source}",
        f"--data_dir={data_dir}",
        f"--label_overrides={labels}",
        *SMALL,
        *flags,
    )


def cells_of(data_dir):
    """Split -> file name -> (label, patient)."""
    data_set = open_data_set(str(data_dir), "by_patient")
    return {
        split: {
            filename.decode(): (label, patient)
            for batch in batching.evaluation_batches(data_set.open_split(split), 64).as_numpy_iterator()
            for _, label, filename, patient in zip(*batch, strict=True)
        }
        for split in ("train", "validation", "test")
    }


def test_corrected_and_excluded_cells(source, tmp_path):
    run_in_process("pipeline.preprocess", f"--source={source}", f"--data_dir={tmp_path / 'published'}", *SMALL)
    published = cells_of(tmp_path / "published")
    corrected, unchanged, excluded = sorted(published["train"])[:3]
    other, same = LABELS[1 - published["train"][corrected][0]], LABELS[published["train"][unchanged][0]]
    labels = tmp_path / "labels.csv"
    labels.write_text(
        f"\ufefffilename,label\r\n{corrected},{other}\r\n\r\n{excluded},exclude\r\n{unchanged},{same}\r\n"
    )
    result = preprocess(source, tmp_path / "data", labels)
    assert result.returncode == 0, result.stderr
    assert "label overrides: 1 corrected, 1 left out" in result.stdout
    expected = {split: dict(cells) for split, cells in published.items()}
    expected["train"][corrected] = (1 - published["train"][corrected][0], published["train"][corrected][1])
    del expected["train"][excluded]
    assert cells_of(tmp_path / "data") == expected
    manifest = json.loads((tmp_path / "data/tfds_malaria/by_patient/1.0.0/manifest.json").read_text())
    assert manifest["label_overrides"] == {
        "num_corrected": 1,
        "num_excluded": 1,
        "published": {name: LABELS[published["train"][name][0]] for name in sorted((corrected, excluded))},
    }
    assert run_in_process("pipeline.verify", f"--data_dir={tmp_path / 'data'}").returncode == 0
    assert "already there" in preprocess(source, tmp_path / "data", labels).stdout
    labels.write_text(f"filename,label\n{corrected},{other}\n")
    assert_one_line_error(preprocess(source, tmp_path / "data", labels), "its label_overrides is ", "give --overwrite")
    assert preprocess(source, tmp_path / "data", labels, "--overwrite").returncode == 0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ["line 1: the header is ''; expected 'filename,label'"]),
        (b"file,label\n", ["line 1"]),
        (
            b"filename,label\nUninfected/nobody.png,exclude\n",
            ["line 2: there is no cell 'Uninfected/nobody.png'", "such as"],
        ),
        (
            b"filename,label\n\nx,healthy\n",
            ["line 3: the label is 'healthy'; expected uninfected, parasitized, exclude"],
        ),
        (b"filename,label\nx,exclude\nx,exclude\n", ["line 3: 'x' is in line 2 already"]),
        (b"filename;label\nx\n", ["line 2: it has 1 columns"]),
        (b"filename,label\nx,exclude\n\xff,exclude\n", ["line 3: byte 0xff is not UTF-8"]),
        (b"\xef\xbb\xbffilename,label\n\xff,exclude\n", ["line 2: byte 0xff is not UTF-8"]),
        (b"x" * 140_000, ["line 1: field larger than field limit", "expected a CSV file"]),
        (b'filename,label\n"x,exclude\n' + b"y,exclude\n" * 20_000, ["field larger than", "matching quotes"]),
        (None, ["cannot be read"]),
    ],
)
def test_bad_lists(content, expected, source, tmp_path):
    labels = tmp_path / "labels.csv"
    if content is not None:
        labels.write_bytes(content)
    assert_one_line_error(preprocess(source, tmp_path / "data", labels), f"--label_overrides={labels}", *expected)
    assert not (tmp_path / "data").exists()


def test_a_split_and_both_labels_keep_cells(source, tmp_path):
    run_in_process("pipeline.preprocess", f"--source={source}", f"--data_dir={tmp_path / 'published'}", *SMALL)
    published = cells_of(tmp_path / "published")
    infected = [name for cells in published.values() for name, (label, _) in cells.items() if label == 1]
    labels = tmp_path / "labels.csv"
    for names, label, expected in (
        (published["test"], "exclude", "leaves no cell in the split test"),
        (infected, "exclude", "leaves no parasitized cell in the data set"),
        (infected, "uninfected", "leaves no parasitized cell in the data set"),
    ):
        labels.write_text("\n".join(["filename,label", *(f"{name},{label}" for name in names)]))
        assert_one_line_error(preprocess(source, tmp_path / "data", labels), expected)
