import unicodedata

import pytest

from pipeline.cells import (
    DEFAULT_PATIENT_REGEX,
    class_folder_values,
    compile_patient_regex,
    parse_class_folders,
    parse_patient,
)
from pipeline.errors import InputError


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("C33P1thinF_IMG_20150619_114756a_cell_179.png", "C33"),
        ("C1_thinF_IMG_20150604_104722_cell_9.png", "C1"),
        ("C37BP2_thinF_IMG_20150620_131804a_cell_10.png", "C37"),
        ("C208ThinF_IMG_20151029_155444_cell_1.png", "C208"),
        ("C47P8thinOriginalOlympusCX21_0001_cell_1.png", "C47"),
        ("C47P8thin_Original_Motic_IMG_1_cell_1.png", "C47"),
        ("C4thin_original_IMG_20150608_163002_cell_1.png", "C4"),
        ("C177P138NThinF_IMG_20151201_1_cell_1.png", "C177"),
        ("thinF_IMG_C33.png", ""),
        ("c33.png", ""),
    ],
)
def test_patient_of_the_nlms_names(name, patient):
    assert parse_patient(name, compile_patient_regex(DEFAULT_PATIENT_REGEX)) == patient


def test_patient_of_other_names():
    assert parse_patient("slide7-pat-0012-x.jpg", compile_patient_regex(r"pat-(\d+)")) == "0012"
    assert parse_patient("slide7-pat-0012-x.jpg", compile_patient_regex(r"pat-\d+")) == "pat-0012"
    assert parse_patient("a.jpg", compile_patient_regex(r"a(b)?")) == ""
    composed, decomposed = (unicodedata.normalize(form, "Zoé_1.png") for form in ("NFC", "NFD"))
    assert parse_patient(composed, compile_patient_regex("^(.*)_")) == "Zo\xe9"
    assert parse_patient(decomposed, compile_patient_regex("^(.*)_")) == "Zo\xe9", "or one patient is in two splits"


def test_a_broken_regex_is_named():
    with pytest.raises(InputError, match="--patient_regex='\\(' is not a regular expression"):
        compile_patient_regex("(")


def test_class_folders_in_label_order_or_by_label():
    expected = {"healthy": 0, "infected": 1}
    assert parse_class_folders(["healthy", "infected"]) == expected
    names = parse_class_folders(["parasitized=infected", "uninfected=healthy"])
    assert (names, class_folder_values(names)) == (expected, ("healthy", "infected"))
    names = parse_class_folders(["parasitized=ring", "uninfected=healthy", "parasitized=a=b"])
    assert list(names.items()) == [("healthy", 0), ("a=b", 1), ("ring", 1)]
    assert class_folder_values(names) == ("uninfected=healthy", "parasitized=a=b", "parasitized=ring")
    assert parse_class_folders(class_folder_values(names)) == names


@pytest.mark.parametrize(
    "values",
    [["one"], ["a", "b", "c"], ["a", "a"], ["a", ""], ["a/b", "c"], ["sick=a", "uninfected=b"], ["uninfected=a", "b"]],
)
def test_other_class_folders_are_refused(values):
    with pytest.raises(InputError, match="--class_folders"):
        parse_class_folders(values)
