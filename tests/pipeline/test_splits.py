import collections
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cells import Cell
from pipeline.errors import InputError
from pipeline.splits import configs


def assign(config, cells, seed):
    """The split of each cell."""
    patient_ids = sorted({cell.patient_id for cell in cells})
    patients = np.array([patient_ids.index(cell.patient_id) for cell in cells])
    splits = configs.CONFIGS[config].assign(np.array([cell.label for cell in cells]), patients, patient_ids, seed)
    return [configs.CONFIGS[config].splits[split] for split in splits]


def cells_like_the_full_set():
    """27,558 names, half of each class."""
    return [
        Cell(f"{folder}/C{i % 200}_{i:05d}.png", label, "", 1)
        for label, folder in ((1, "Parasitized"), (0, "Uninfected"))
        for i in range(13_779)
    ]


def patients(num_patients=60, seed=0):
    """Cells of patients as in the real data: sizes 65 to 700, a quarter healthy."""
    rng = np.random.default_rng(seed)
    cells = []
    for patient in range(num_patients):
        infected = 0.0 if patient % 4 == 0 else rng.uniform(0.1, 0.95)
        for cell in range(int(rng.integers(65, 700))):
            label = int(rng.random() < infected) or int(cell == 0 and infected > 0)
            cells.append(Cell(f"{'UP'[label]}/C{patient}_{cell:03d}.png", label, f"C{patient}", 1))
    return sorted(cells)


def test_by_cell_has_the_published_counts():
    cells = cells_like_the_full_set()
    counts = collections.Counter(zip(assign("by_cell", cells, 42), (cell.label for cell in cells), strict=True))
    assert {name: counts[name, 0] + counts[name, 1] for name in configs.FRACTIONS} == {
        "train": 17_361,
        "validation": 1_929,
        "test": 8_268,
    }
    # The original shuffles before it looks at names, so even its classes come out: healthy, malaria.
    assert [counts["train", 0], counts["train", 1]] == [8_734, 8_627]
    assert [counts["validation", 0], counts["validation", 1]] == [970, 959]
    assert [counts["test", 0], counts["test", 1]] == [4_075, 4_193]


@st.composite
def tables(draw):
    """Cells of each of some patients by class; each class is in at least as many patients as there are folds."""
    num_cells = st.integers(0, 60)
    counts = draw(st.lists(st.tuples(num_cells, num_cells), min_size=5, max_size=12))
    return [(max(a, int(i < 5)), max(b, int(i >= len(counts) - 5))) for i, (a, b) in enumerate(counts)]


@settings(max_examples=20, deadline=None)
@given(tables(), st.integers(0, 2**32 - 1), st.sampled_from(["by_patient", "folds"]), st.randoms(use_true_random=False))
def test_every_patient_is_in_one_split_and_every_class_in_all(table, seed, config, random):
    cells = [
        Cell(f"{label}/C{patient}_{number:02d}.png", label, f"C{patient}", 1)
        for patient, counts in enumerate(table)
        for label, count in enumerate(counts)
        for number in range(count)
    ]
    assigned = assign(config, cells, seed)
    assert len(assigned) == len(cells)
    split_of = dict(zip((cell.patient_id for cell in cells), assigned, strict=True))
    assert assigned == [split_of[cell.patient_id] for cell in cells]
    names = configs.CONFIGS[config].splits
    assert {(cell.label, name) for cell, name in zip(cells, assigned, strict=True)} == {
        (label, name) for label in (0, 1) for name in names
    }
    random.shuffle(cells)
    assert assign(config, cells, seed) == [split_of[cell.patient_id] for cell in cells]


@settings(deadline=None)
@given(st.integers(10, 500), st.integers(0, 2**32 - 1))
def test_by_cell_assigns_every_cell_once(num_cells, seed):
    assigned = collections.Counter(assign("by_cell", [Cell(f"{i:03d}", i % 2, "", 1) for i in range(num_cells)], seed))
    num_test = -(-3 * num_cells // 10)
    num_validation = -(-(num_cells - num_test) // 10)
    assert (assigned["test"], assigned["validation"]) == (num_test, num_validation)
    assert assigned.total() == num_cells


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_fractions_and_balance_are_near_the_wanted(seed):
    cells = patients()
    assigned = assign("by_patient", cells, seed)
    parasitized = np.mean([cell.label for cell in cells])
    infected = {cell.patient_id for cell in cells if cell.label}
    for name, fraction in configs.FRACTIONS.items():
        part = [cell for cell, split in zip(cells, assigned, strict=True) if split == name]
        assert len(part) / len(cells) == pytest.approx(fraction, abs=0.005)
        assert np.mean([cell.label for cell in part]) == pytest.approx(parasitized, abs=0.02)
        assert {cell.patient_id for cell in part} - infected, "healthy patients belong in every split"


def test_pinned_plan():
    """Golden: changing it changes every data set, so it needs a new VERSION and a release note."""
    cells = patients(20)
    digests = {
        config: hashlib.sha256("\n".join(assign(config, cells, 42)).encode()).hexdigest()[:16]
        for config in configs.CONFIGS
        if config != "given"
    }
    assert digests == {
        "by_patient": "c43e8ea85464f9db",
        "by_cell": "f7851dcba751bcfe",
        "folds": "8a9f34ff40b6ce90",
    }


@pytest.mark.parametrize(("config", "num_patients", "needed"), [("by_patient", 2, 3), ("folds", 4, 5)])
def test_too_few_patients(config, num_patients, needed):
    cells = [Cell(f"{label}/C{p}", label, f"C{p}", 1) for p in range(num_patients) for label in (0, 1)]
    with pytest.raises(InputError, match=f"too few patients to split: {num_patients} .* at least {needed}"):
        assign(config, cells, 42)


def test_too_few_cells():
    with pytest.raises(InputError, match="too few to split"):
        assign("by_cell", [Cell(f"U/{i}", 0, "", 1) for i in range(9)], 42)
