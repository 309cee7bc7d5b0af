import collections
import hashlib

import numpy as np
import pytest

from pipeline.cells import Cell
from pipeline.errors import InputError
from pipeline.splits import configs, grouped


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


def leaking_patients(cells, splits):
    """Patients with cells in more than one split."""
    seen = collections.defaultdict(set)
    for cell, name in zip(cells, splits, strict=True):
        seen[cell.patient_id].add(name)
    return sorted(patient for patient, names in seen.items() if len(names) > 1)


def test_by_cell_has_the_published_counts():
    cells = cells_like_the_full_set()
    counts = collections.Counter(zip(configs.assign_by_cell(cells, 42), (cell.label for cell in cells), strict=True))
    assert {name: counts[name, 0] + counts[name, 1] for name in configs.SHARES} == {
        "train": 17_361,
        "validation": 1_929,
        "test": 8_268,
    }
    # The original shuffles before it looks at names, so even its classes come out: healthy, malaria.
    assert [counts["train", 0], counts["train", 1]] == [8_734, 8_627]
    assert [counts["validation", 0], counts["validation", 1]] == [970, 959]
    assert [counts["test", 0], counts["test", 1]] == [4_075, 4_193]


@pytest.mark.parametrize("config", ["by_patient", "folds"])
@pytest.mark.parametrize("seed", [0, 42])
def test_no_patient_is_in_two_splits(config, seed):
    cells = patients()
    assert leaking_patients(cells, configs.CONFIGS[config].assign(cells, seed)) == []


def test_the_leak_check_can_fail():
    cells = patients()
    assert len(leaking_patients(cells, configs.assign_by_cell(cells, 42))) == 60


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_shares_and_balance_are_kept(seed):
    cells = patients()
    assigned = configs.assign_by_patient(cells, seed)
    share_of_parasitized = np.mean([cell.label for cell in cells])
    infected = {cell.patient_id for cell in cells if cell.label}
    for name, share in configs.SHARES.items():
        part = [cell for cell, its in zip(cells, assigned, strict=True) if its == name]
        assert len(part) / len(cells) == pytest.approx(share, abs=0.005)
        assert np.mean([cell.label for cell in part]) == pytest.approx(share_of_parasitized, abs=0.02)
        assert {cell.patient_id for cell in part} - infected, "healthy patients belong in every split"


def test_it_comes_closer_than_scikit_learn():
    from sklearn.model_selection import StratifiedGroupKFold

    cells = patients()
    labels = np.array([cell.label for cell in cells])
    groups = np.array([cell.patient_id for cell in cells])

    def worst(assigned):
        return max(
            abs(((assigned == name) & (labels == label)).sum() / (labels == label).sum() - share)
            for name, share in configs.SHARES.items()
            for label in (0, 1)
        )

    theirs = np.full(len(cells), "train", dtype=object)
    folds = [test for _, test in StratifiedGroupKFold(10, shuffle=True, random_state=42).split(labels, labels, groups)]
    theirs[np.concatenate(folds[:3])] = "test"
    rest = np.flatnonzero(theirs == "train")
    tenth = next(
        StratifiedGroupKFold(10, shuffle=True, random_state=42).split(labels[rest], labels[rest], groups[rest])
    )[1]
    theirs[rest[tenth]] = "validation"
    ours = np.array(configs.assign_by_patient(cells, 42), dtype=object)
    assert worst(ours) < worst(theirs) / 3


def test_pinned_plan():
    """Golden: changing it changes every data set, so it needs a new VERSION and a release note."""
    cells = patients(20)
    digests = {
        name: hashlib.sha256("\n".join(config.assign(cells, 42)).encode()).hexdigest()[:16]
        for name, config in configs.CONFIGS.items()
    }
    assert digests == {
        "by_patient": "c43e8ea85464f9db",
        "by_cell": "f7851dcba751bcfe",
        "folds": "8a9f34ff40b6ce90",
    }


def test_the_seed_and_nothing_else_decides():
    cells = patients(20)
    assert configs.assign_by_patient(cells, 1) == configs.assign_by_patient(cells, 1)
    assert configs.assign_by_patient(cells, 1) != configs.assign_by_patient(cells, 2)
    shuffled = [cells[i] for i in np.random.default_rng(0).permutation(len(cells))]
    ours = dict(zip((cell.filename for cell in cells), configs.assign_by_patient(cells, 1), strict=True))
    assert dict(zip((cell.filename for cell in shuffled), configs.assign_by_patient(shuffled, 1), strict=True)) == ours


@pytest.mark.parametrize(("config", "num_patients", "needed"), [("by_patient", 2, 3), ("folds", 4, 5)])
def test_too_few_patients(config, num_patients, needed):
    cells = [Cell(f"{label}/C{p}", label, f"C{p}", 1) for p in range(num_patients) for label in (0, 1)]
    with pytest.raises(InputError, match=f"too few patients to split: {num_patients} .* at least {needed}"):
        configs.CONFIGS[config].assign(cells, 42)


def test_too_few_cells():
    with pytest.raises(InputError, match="too few to split"):
        configs.assign_by_cell([Cell(f"U/{i}", 0, "", 1) for i in range(9)], 42)


def test_no_split_lacks_a_class_even_with_few_patients():
    rng = np.random.default_rng(5)
    tried = 0
    for _ in range(200):
        counts = rng.integers(0, 50, (rng.integers(3, 9), 2)) * (rng.random((1, 1)) < 0.9)
        counts = counts * (rng.random(counts.shape) < 0.6)
        counts = counts[counts.any(axis=1)]
        if ((counts > 0).sum(axis=0) < 3).any():
            continue
        tried += 1
        splits = grouped.assign_groups(counts, [0.63, 0.07, 0.30])
        assert all((counts[splits == s].sum(axis=0) > 0).all() for s in range(3))
    assert tried > 20
