"""Sources as people have them: tables, patient folders, given splits; and what the job says of them."""

import csv
import json
import shutil
import zipfile

import cv2
import numpy as np
import pytest
from conftest import assert_one_line_error, listing_of, open_split, png, run_in_process, zip_folder
from test_preprocess import SMALL, data_sets, preprocess

from pipeline.cells import guess_label
from pipeline.records import index


def write_cells(folder, names):
    """Files of noise, each another one."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(seed))
    return folder


def write_table(path, rows, delimiter=",", encoding="utf-8"):
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


@pytest.fixture
def lab(tmp_path):
    """A laboratory's folder: crops/, and labels.csv with a column slide; 24 cells of 6 slides."""
    names = [f"crops/{number}.png" for number in range(24)]
    rows = [(name, ("healthy", "infected")[i // 6 % 2], f"S{i % 6}") for i, name in enumerate(names)]
    write_cells(tmp_path / "lab", [*names, "crops/other.png"])
    write_table(tmp_path / "lab/labels.csv", [("File", "label", "slide"), *rows])
    return tmp_path / "lab"


def manifest_of(data_dir, config="by_patient"):
    return json.loads((data_dir / f"tfds_malaria/{config}/1.0.0/manifest.json").read_text())


def test_a_table_in_a_folder_or_zip_or_by_itself_gives_the_same_data_set(lab, tmp_path):
    zipped = zip_folder(lab.parent / "lab", tmp_path / "lab.zip", prefix="lab/")
    result = preprocess(zipped, tmp_path / "data", *SMALL)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(
        "uninfected ← label=healthy, 12 cells; parasitized ← label=infected, 12 cells\n6 slides ← column slide\n"
    )
    manifest = manifest_of(tmp_path / "data")
    assert manifest["settings"]["patient_column"] == "slide"
    assert manifest["settings"]["class_folders"] == ["healthy", "infected"]
    assert manifest["source"]["skipped"] == {"not an image by name": 1, "not in the table": 1}
    assert run_in_process("pipeline.verify", f"--data_dir={tmp_path / 'data'}").returncode == 0
    moved = tmp_path / "moved.csv"
    shutil.copy(lab / "labels.csv", moved)
    content = moved.read_text()
    moved.write_text(
        "\ufeffsep=;\n" + content.replace(",", ";").replace("File", "cell").replace("label", "what"), "utf-8"
    )
    flags = (f"--labels_csv={moved}", "--file_column=cell", "--label_column=what", "--class_names=healthy,infected")
    for source, more in ((lab, ()), (lab / "labels.csv", ()), (zipped, flags)):
        assert "already there" in preprocess(source, tmp_path / "data", *SMALL, *more).stdout
    (lab / "labels.csv").write_text(content.replace("healthy,S5", "infected,S5"))
    assert_one_line_error(preprocess(lab, tmp_path / "data", *SMALL), "its source is lab.zip")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda text: text.replace("label,", "kind,"),
            ["the header is 'File,kind,slide', without a column label", "--label_column=COLUMN"],
        ),
        (
            lambda text: (
                text.replace("label,sl", "Befund,Patient ").replace("File", "Datei").replace("healthy", "gesund")
            ),
            ["give --file_column=COLUMN --label_column=COLUMN"],
        ),
        (
            lambda text: text.replace("label,slide", "Label,label"),
            ["line 1: the header has the column 'label' more than once; rename the others"],
        ),
        (
            lambda text: text.replace("infected,S2", "odd,S2"),  # a mapping to copy would give a typo a label
            ["line 10: the label is 'odd'; expected healthy or infected; correct it, or give another --label_col"],
        ),
        (
            lambda text: text.replace("healthy", "clear").replace("clear", "claer", 1),
            ["line 2: the label is 'claer'", "or --class_names=uninfected=clear,parasitized=infected if clear"],
        ),
        (
            lambda text: text.replace("healthy", "helthy", 1),
            ["line 2: the label is 'helthy'; expected healthy or infect"],
        ),
        (lambda text: text.replace("infected", "", 1), ["line 8: the label is ''; expected healthy or", "correct it"]),
        (
            lambda text: text.replace("s/9.p", "s/x.p"),
            ["line 11: there is no image 'crops/x.png' in ", "/cells/;", "give --source=<their folder> --labels_csv="],
        ),
        (lambda text: text.replace("s/9.p", "s/8.p"), ["line 11: 'crops/8.png' is in line 10 already"]),
        (lambda text: text.replace("crops/9", "../9"), ["line 11: the file is '../9.png'"]),
        (
            lambda text: text.replace("crops/9.png", "labels.csv"),
            ["line 11: there is no image 'labels.csv' in ", "/cells/; expected a file of"],
        ),
        (lambda text: text.replace("9.png,", "9.png,,"), ["line 11: it has 4 columns; expected 3"]),
        (
            lambda text: text.replace("S0", "Sä").encode("latin-1"),
            ["line 2: byte 0xe4 is not UTF-8; save the table in Excel as 'CSV UTF-8 (comma delimited)'"],
        ),
        (lambda text: text.encode("utf-16"), ["line 1: byte 0xff is not UTF-8"]),
        (lambda text: text.replace("S3", ""), ["4 of 24 cells in cells have no slide", "--config=by_cell"]),
        (lambda text: text.replace("infected", "healthy"), ["has no parasitized cell"]),
        (
            lambda text: text.replace("slide", "split"),
            ["line 2: the split is 'S0'; expected train, val", "rename it", "--split_column="],
        ),
        (lambda _: "", ["line 1: the header is ''"]),
    ],
)
def test_bad_tables(change, expected, lab, tmp_path):
    lab = lab.rename(tmp_path / "cells")
    content = change((lab / "labels.csv").read_text())
    (lab / "labels.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_one_line_error(preprocess(lab, tmp_path / "data", *SMALL), *expected)
    assert data_sets(tmp_path / "data") == []


def test_several_tables_and_no_column(lab, tmp_path):
    shutil.copy(lab / "labels.csv", lab / "more.csv")
    expected = "no class folders and 2 CSVs (labels.csv, more.csv); give one by --labels_csv"
    assert_one_line_error(preprocess(lab, tmp_path / "data"), expected)
    result = preprocess(lab, tmp_path / "data", f"--labels_csv={lab / 'more.csv'}", "--patient_column=of")
    assert_one_line_error(result, "without a column of; give --patient_column=COLUMN")
    result = preprocess(lab, tmp_path / "data", f"--labels_csv={lab / 'no.csv'}")
    assert_one_line_error(result, f"--labels_csv={lab / 'no.csv'} cannot be read")
    with zipfile.ZipFile(tmp_path / "labels.xlsx", "w", zipfile.ZIP_DEFLATED) as book:
        book.write(lab / "more.csv", "xl/sheet.xml")
    assert_one_line_error(
        preprocess(tmp_path / "labels.xlsx", tmp_path / "data"), "line 1: this is an Excel workbook; save the table"
    )
    (tmp_path / "linked").mkdir()
    shutil.copy(lab / "labels.csv", tmp_path / "linked")
    result = preprocess(tmp_path / "linked/labels.csv", tmp_path / "data")
    assert_one_line_error(result, f"line 2: there is no image 'crops/0.png' in {tmp_path}/linked/; expected")
    (tmp_path / "linked/crops").symlink_to(lab / "crops")
    result = preprocess(tmp_path / "linked/labels.csv", tmp_path / "data")
    assert_one_line_error(
        result, "line 2: 'crops' is a symbolic link to a folder, which is not followed; put the folder"
    )
    result = preprocess(lab / "more.csv", tmp_path / "data", "--patient_column=", r"--patient_regex=crops/(\d)", *SMALL)
    assert "10 patients ← --patient_regex=crops/(\\d)" in result.stdout


@pytest.mark.parametrize("num_more", [0, 1])
def test_patients_in_paths(num_more, tmp_path):
    names = ["P1/Uninfected/a.png", "P2/Parasitized/C7_a.png", "P3/Parasitized/a.png", "P3/Uninfected/b.png"]
    names += num_more * ["P4/Parasitized/a.png", "P4/Uninfected/a.png"]
    around = listing_of(write_cells(tmp_path / "around", names)).cells
    assert [(cell.filename, cell.label, cell.patient_id) for cell in around] == [
        (name, int("Para" in name), "C7" if "C7" in name else name[:2]) for name in sorted(names)
    ]
    inside = [f"{folder}/P{i}/C.png" for folder in ("Uninfected", "Parasitized") for i in range(3)]
    within = listing_of(write_cells(tmp_path / "inside", inside), patient_regex=r"^\w+/(P\d)/").cells
    assert {(cell.filename, cell.patient_id) for cell in within} == {(name, name.split("/")[1]) for name in inside}


def test_given_splits_by_folders(tmp_path):
    names = [f"{split}/P{i}/{folder}/{i}.png" for split in ("train", "test") for i in range(3) for folder in "UP"]
    source = write_cells(tmp_path / "cells", names)
    shutil.copy(source / "train/P0/U/0.png", source / "test/P1/U/1.png")
    flags = ("--class_folders=U,P", *SMALL)
    result = preprocess(source, tmp_path / "data", "--config=given,by_patient", *flags)
    assert result.returncode == 0, result.stderr
    assert "uninfected ← U/ in test/P0/ and 5 more folders, 6 cells" in result.stdout
    assert "given splits, which --config=given keeps: train 6 cells, test 6 cells\n" in result.stdout
    assert "warning: given splits share 3 patients, such as P0" in result.stdout
    assert "in several splits: 1;" in result.stdout
    assert "advice: 3 patients: use trainers.cross_validate" in result.stdout
    assert run_in_process("pipeline.verify", f"--data_dir={tmp_path / 'data'}").returncode == 0
    for split in ("train", "test"):
        (shard,) = open_split(tmp_path / "data", split, "given").files
        cells = index.read_without_images(shard, 0, 6)
        assert {cell.filename for cell in cells} == {name for name in names if name.startswith(split)}
    (source / "test").rename(source / "extra")
    result = preprocess(source, tmp_path / "more", "--config=given", *flags)
    assert_one_line_error(result, "class folders in the split train/ and in extra/; expected train, val,")
    (source / "train").rename(source / "more")
    result = preprocess(source, tmp_path / "more", "--config=given", *flags)
    assert_one_line_error(result, "has no splits of its own", "--config=by_patient")


def test_given_splits_by_a_column(lab, tmp_path):
    rows = [(*row, split) for row, split in zip(table_of(lab), ["train", "Val", "test"] * 8, strict=True)]
    write_table(lab / "labels.csv", [("file", "label", "slide", "split"), *rows], delimiter="\t")
    listing = listing_of(lab)
    assert listing.cells.splits.tolist() == [[0, 1, 2][int(cell.filename[6:-4]) % 3] for cell in listing.cells]
    write_table(lab / "labels.csv", [("file", "label", "slide"), *[row[:3] for row in rows]])
    assert listing_of(lab).fingerprint != listing.fingerprint


def table_of(lab):
    return list(csv.reader((lab / "labels.csv").read_text().splitlines()))[1:]


def test_names_that_say_the_opposite_and_advice(tmp_path):
    names = [f"infected/C{i}.png" for i in range(8)] + [f"healthy/C{i % 4}_{i}.png" for i in range(48)]
    source = write_cells(tmp_path / "cells", names)
    for i in range(8):
        (source / f"infected/C{i}.png").write_bytes(cv2.imencode(".png", np.full((30, 30), i, np.uint8))[1].tobytes())
    result = preprocess(source, tmp_path / "data", "--class_folders=infected,healthy", *SMALL)
    lines = result.stdout.splitlines()
    assert "warning: uninfected ← infected/, whose name says the opposite; check --class_folders" in lines
    assert [line for line in lines if "advice" in line] == [
        "  advice: borders are not black in 48 of 56 cells: --background=black --overwrite masks what surrounds a cell",
        "  advice: not 8-bit RGB: 8 grey; a model that learns colours needs cells like those that it will predict",
        "  advice: 8 patients: use trainers.cross_validate (--config=folds), which tests on each one",
        "  advice: uninfected to parasitized cells are 1:6.0: train with --class_weight=balanced",
    ]
    result = preprocess(source, tmp_path / "by_names", "--config=by_cell", *SMALL)
    assert result.stdout.startswith("uninfected ← healthy/, 48 cells; parasitized ← infected/, 8 cells\n")
    assert "warning: uninfected" not in result.stdout


def test_several_names_for_a_label(tmp_path):
    names = [f"{folder}/C{i}_{i}.png" for folder in ("healthy", "ring", "late", "odd") for i in range(6)]
    source = write_cells(tmp_path / "cells", names)
    flag = "--class_folders=uninfected=healthy,parasitized=ring,parasitized=late"
    result = preprocess(source, tmp_path / "data", flag, "--config=by_cell", *SMALL)
    assert result.stdout.startswith("uninfected ← healthy/, 6 cells; parasitized ← late/ + ring/, 12 cells\n")
    assert "warning: left out are 6 images in odd/; --class_folders takes several names for a label\n" in result.stdout
    settings = manifest_of(tmp_path / "data", "by_cell")["settings"]
    assert f"--class_folders={','.join(sorted(settings['class_folders'], reverse=True))}" == flag
    rows = [(name, name.partition("/")[0], i % 6) for i, name in enumerate(names[:18])]
    table = write_table(source / "labels.csv", [("file", "stage", "slide"), *rows])
    flags = (f"--labels_csv={table}", flag.replace("folders", "names"), "--label_column=stage", "--config=by_cell")
    result = preprocess(source, tmp_path / "table", *flags, *SMALL)
    assert result.stdout.startswith("uninfected ← stage=healthy, 6 cells; parasitized ← stage=late + ring, 12 cells\n")
    assert run_in_process("pipeline.verify", f"--data_dir={tmp_path / 'table'}").returncode == 0


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (
            0,
            [
                "Uninfected",
                "healthy",
                "not infected",
                "non-infected_cells",
                "NEGATIVE",
                "normal",
                "no_parasite",
                "gesund",
                "nicht infiziert",
            ],
        ),
        (1, ["Parasitized", "parasitised", "infected", "cells_infected", "Positive", "infiziert", "positivo"]),
        (None, ["0", "1", "", "abnormal", "unhealthy", "ring", "cells"]),
    ],
)
def test_what_names_mean(label, names):
    assert {name: guess_label(name) for name in names} == dict.fromkeys(names, label)
