"""Flags of the recipe, and what becomes of them in Keras."""

import keras
import numpy as np
import pytest

from trainers.training import recipe
from trainers.training_flags import Options


def options(**given):
    plain = {
        "optimizer": "adam",
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "schedule": "plateau",
        "warmup_epochs": 0.0,
        "epochs": 4,
        "label_smoothing": 0.0,
    }
    return Options(**{**dict.fromkeys(Options._fields), **plain, **given})


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_weight_decay_takes_its_share_of_the_weights_a_step(name):
    weights = {}
    for decay in (0.0, 0.5):
        made = recipe.optimizer(options(optimizer=name, weight_decay=decay), steps_per_epoch=5)
        assert type(made).__name__.lower() == name
        variable = keras.Variable(np.full(3, 2.0, np.float32))
        made.build([variable])
        made.apply([np.zeros(3, np.float32)])
        weights[decay] = keras.ops.convert_to_numpy(variable)
    np.testing.assert_array_equal(weights[0.0], 2.0)
    np.testing.assert_allclose(weights[0.5], 2.0 * (1 - 0.5 * 0.01), rtol=1e-6)


def test_plateau_is_a_number_that_its_callback_may_change():
    assert recipe.learning_rate(options(), steps_per_epoch=5) == 0.01


def test_cosine_rises_over_its_warm_up_and_falls_to_nothing_by_the_last_step():
    rate = recipe.learning_rate(options(schedule="cosine", warmup_epochs=1.0), steps_per_epoch=5)
    rates = [float(rate(step)) for step in range(21)]
    assert rates[0] == 0
    assert np.argmax(rates) == 5
    assert rates[5] == pytest.approx(0.01)
    assert rates[12] == pytest.approx(0.01 * (1 + np.cos(np.pi * 7 / 15)) / 2, rel=1e-4)
    assert rates[20] == pytest.approx(0, abs=1e-9)
    assert float(recipe.learning_rate(options(schedule="cosine"), 5)(0)) == pytest.approx(0.01)


def test_smoothed_labels_are_moved_by_half_of_it_towards_the_middle():
    said = np.array([[0.9]], np.float32)
    loss = float(recipe.loss(options(label_smoothing=0.2))(np.array([[1.0]], np.float32), said))
    assert loss == pytest.approx(-0.9 * np.log(0.9) - 0.1 * np.log(0.1), rel=1e-5)
