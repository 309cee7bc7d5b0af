"""What the recipe's flags become in Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import InputError
from trainers.training.fit import build_loss, build_optimizer
from trainers.training.models_and_batches import class_weights
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
        "gce_q": 0.0,
    }
    return Options(**{**dict.fromkeys(Options._fields), **plain, **given})


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_weight_decay_is_decoupled(name):
    weights = {}
    for decay in (0.0, 0.5):
        optimizer = build_optimizer(options(optimizer=name, weight_decay=decay), steps_per_epoch=5)
        assert type(optimizer).__name__.lower() == name
        variable = keras.Variable(np.full(3, 2.0, np.float32))
        optimizer.build([variable])
        optimizer.apply([np.zeros(3, np.float32)])
        weights[decay] = keras.ops.convert_to_numpy(variable)
    np.testing.assert_array_equal(weights[0.0], 2.0)
    np.testing.assert_allclose(weights[0.5], 2.0 * (1 - 0.5 * 0.01), rtol=1e-6)


def test_cosine_rises_over_its_warm_up_and_falls_to_0_by_the_last_step():
    def rates_of(**given):
        optimizer = build_optimizer(options(schedule="cosine", **given), steps_per_epoch=5)
        optimizer.build([])
        rates = []
        for step in range(21):
            optimizer.iterations.assign(step)
            rates.append(float(optimizer.learning_rate))
        return rates

    rates = rates_of(warmup_epochs=1.0)
    assert rates[0] == 0
    assert np.argmax(rates) == 5
    assert rates[5] == pytest.approx(0.01)
    assert rates[12] == pytest.approx(0.01 * (1 + np.cos(np.pi * 7 / 15)) / 2, rel=1e-4)
    assert rates[20] == pytest.approx(0, abs=1e-9)
    assert rates_of()[0] == pytest.approx(0.01)


def test_generalized_crossentropy_lies_between_crossentropy_and_absolute_error():
    labels, probabilities = np.array([0, 1, 1]), np.array([[0.1], [0.9], [0.2]], np.float32)
    crossentropy = build_loss(options(label_smoothing=0.2))(labels, probabilities)
    np.testing.assert_allclose(
        build_loss(options(label_smoothing=0.2, gce_q=1e-3))(labels, probabilities), crossentropy, rtol=5e-3
    )
    expected = np.mean((1 - np.array([0.9, 0.9, 0.2]) ** 0.7) / 0.7)
    np.testing.assert_allclose(build_loss(options(gce_q=0.7))(labels, probabilities), expected, rtol=1e-5)
    np.testing.assert_allclose(build_loss(options(gce_q=1.0))(labels, probabilities), (0.1 + 0.1 + 0.8) / 3, rtol=1e-5)


def test_generalized_crossentropy_has_finite_gradients_at_certain_mistakes():
    probabilities = tf.Variable([[0.0], [1.0], [1.0], [0.0]])
    with tf.GradientTape() as tape:
        loss = build_loss(options(gce_q=0.7))(np.array([1, 0, 1, 0]), probabilities)
    assert np.isfinite(loss)
    assert np.isfinite(tape.gradient(loss, probabilities)).all()


def test_balanced_class_weights_are_the_public_formula():
    labels = np.array([0] * 90 + [1] * 10)
    np.testing.assert_allclose(class_weights("balanced", labels), [100 / (2 * 90), 100 / (2 * 10)])


def test_class_weights_of_one_class_only():
    with pytest.raises(InputError, match="training split has only uninfected"):
        class_weights("balanced", np.zeros(3, np.int64))
