import numpy as np
import pytest

from pipeline.errors import InputError
from trainers.training.class_weight import MODES, class_weight


def test_balanced_is_the_public_formula():
    labels = np.array([0] * 90 + [1] * 10)
    assert class_weight("balanced", labels) == {0: pytest.approx(100 / (2 * 90)), 1: pytest.approx(100 / (2 * 10))}
    assert class_weight("balanced", np.array([1, 0, 0, 1])) == {0: 1.0, 1: 1.0}


def test_the_classes_weigh_the_same_in_the_loss():
    labels = np.random.default_rng(0).integers(0, 10, 1000) // 9
    weights = class_weight("balanced", labels)
    assert weights[0] * (labels == 0).sum() == pytest.approx(weights[1] * (labels == 1).sum())
    assert sum(weights[label] for label in labels.tolist()) == pytest.approx(1000), "the loss keeps its scale"


def test_none_is_none():
    assert MODES[0] == "none"
    assert class_weight("none", np.zeros(3)) is None


def test_one_class_only():
    with pytest.raises(InputError, match="training split has uninfected only"):
        class_weight("balanced", np.zeros(3, np.int64))
