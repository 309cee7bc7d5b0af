import shutil

from conftest import prepare


def test_cells_without_copies(source, tmp_path):
    manifest = prepare(source, tmp_path / "data").manifest
    assert manifest["duplicates"] == {"num_cells": 0, "num_label_conflicts": 0, "num_across_splits": 0, "examples": []}
    assert manifest["same_names"] == {"num": 0, "examples": []}


def test_copies_and_label_conflicts_are_counted_and_named(source, tmp_path):
    infected = "Parasitized/C1P1thinF_IMG_20150619_114756a_cell_0.png"
    healthy = "Uninfected/C3P3thinF_IMG_20150619_114756a_cell_0.png"
    shutil.copy(source / healthy, source / "Uninfected/C3P3thinF_IMG_20150619_114756a_cell_90.png")
    conflicting = "Uninfected/C1P1thinF_IMG_20150619_114756a_cell_91.png"
    shutil.copy(source / infected, source / conflicting)
    shutil.copy(source / infected, source / "Parasitized/C1P1thinF_IMG_20150619_114756a_cell_92.png")
    (source / "Uninfected" / "C3P3thinF_IMG_20150619_114756a_cell_99.png").write_bytes(b"")  # shifts the records
    manifest = prepare(source, tmp_path / "data", cells_per_shard=5, max_rejected_fraction=0.1).manifest
    duplicates = manifest["duplicates"]
    examples = duplicates.pop("examples")
    assert duplicates == {"num_cells": 3, "num_label_conflicts": 1, "num_across_splits": 0}
    assert set(examples[:3]) == {infected, conflicting, "Parasitized/C1P1thinF_IMG_20150619_114756a_cell_92.png"}
    assert set(examples[3:]) == {healthy, "Uninfected/C3P3thinF_IMG_20150619_114756a_cell_90.png"}


def test_copies_in_several_splits(source, tmp_path):
    names = sorted(path.name for path in (source / "Uninfected").iterdir())
    for name in names[1:]:
        shutil.copy(source / f"Uninfected/{names[0]}", source / f"Uninfected/{name}")
    duplicates = prepare(source, tmp_path / "data").manifest["duplicates"]
    assert (duplicates["num_cells"], duplicates["num_across_splits"]) == (len(names) - 1, 1)
    assert sorted(duplicates["examples"]) == [f"Uninfected/{name}" for name in names]


def test_the_same_name_in_both_classes_is_kept_and_reported(source, tmp_path):
    name = "C3P3thinF_IMG_20150619_114756a_cell_0.png"
    shutil.copy(source / "Parasitized/C1P1thinF_IMG_20150619_114756a_cell_0.png", source / f"Parasitized/{name}")
    manifest = prepare(source, tmp_path / "data").manifest
    assert manifest["same_names"] == {"num": 1, "examples": [name]}
    assert sum(split["num_cells"] for split in manifest["splits"].values()) == 37
