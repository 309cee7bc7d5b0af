"""Augmentation: parity with Keras's ImageDataGenerator, stain on the cell alone, numbers fixed by (seed, step)."""

import numpy as np
import pytest

from trainers.augmentation.ranges import FILLS, Ranges

SIZE = 64
CHANGES = {
    "rotation_degrees": 0.0,
    "zoom_x": 1.0,
    "zoom_y": 1.0,
    "shift_x_px": 0.0,
    "shift_y_px": 0.0,
    "shear_degrees": 0.0,
}
LEGACY = {"rotation_degrees": "theta", "zoom_x": "zx", "zoom_y": "zy", "shift_x_px": "tx", "shift_y_px": "ty"}
EVERYTHING = Ranges(180.0, 0.1, 0.05, 5.0, "both", "black", 0.15, 0.05, 0.2, 10.0)
STRANGERS = EVERYTHING._replace(surroundings=0.6, margin=0.3, stain_density=0.7, blur=1.0)


@pytest.fixture(scope="module")
def smooth():
    """A smooth image, float32 [64, 64, 3] in 0…255."""
    import cv2

    noise = np.random.default_rng(0).uniform(0, 255, (SIZE, SIZE, 3)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)


def transform(flip_x=False, flip_y=False, **changes):
    import tensorflow as tf

    from trainers.augmentation import params

    values = {name: tf.constant([value], tf.float32) for name, value in (CHANGES | changes).items()}
    rotation, zoom_x, zoom_y, shift_x, shift_y, shear = values.values()
    zooms = -zoom_x if flip_x else zoom_x, -zoom_y if flip_y else zoom_y
    return params.compose(SIZE, rotation, zooms, (shift_x, shift_y), shear)


@pytest.mark.filterwarnings("ignore:Please import `affine_transform`:DeprecationWarning")  # in Keras
@pytest.mark.parametrize(
    "changes",
    [
        {"rotation_degrees": 25.0},
        {"zoom_x": 1.2, "zoom_y": 0.9},
        {"shift_x_px": 3.0, "shift_y_px": -2.5},
        {"shear_degrees": 20.0},
        {
            "rotation_degrees": -17.0,
            "zoom_x": 0.95,
            "zoom_y": 1.04,
            "shift_x_px": 3.0,
            "shift_y_px": 1.5,
            "shear_degrees": 5.0,
        },
    ],
)
def test_a_warp_is_that_of_the_original_generator(smooth, changes):
    from keras.src.legacy.preprocessing.image import apply_affine_transform

    from trainers.augmentation import apply

    legacy = {LEGACY.get(name, "shear"): value for name, value in changes.items()}
    expected = apply_affine_transform(
        smooth.copy(), row_axis=0, col_axis=1, channel_axis=2, fill_mode="nearest", **legacy
    )
    changed = np.asarray(apply.warp(smooth[None], transform(**changes), "nearest", by_gathers=False))[0]
    assert np.abs(changed - smooth).max() > 10, "it changes the image"
    np.testing.assert_allclose(changed, expected, atol=0.01)


def test_flips_come_after_the_warp_as_in_the_original_generator(smooth):
    from trainers.augmentation import apply

    def warped(**flips):
        changes = transform(rotation_degrees=25.0, **flips)
        return np.asarray(apply.warp(smooth[None], changes, "nearest", by_gathers=False))[0]

    turned = warped()
    np.testing.assert_allclose(warped(flip_x=True, flip_y=True), turned[::-1, ::-1], atol=0.01)
    np.testing.assert_allclose(warped(flip_x=True), turned[:, ::-1], atol=0.01)


def test_black_comes_in_from_beyond_the_border():
    from trainers.augmentation import apply

    white = np.full((1, SIZE, SIZE, 3), 255, np.float32)
    changed = np.asarray(apply.warp(white, transform(rotation_degrees=45.0), "black", by_gathers=False))[0]
    assert changed[0, 0].max() == 0
    assert changed[SIZE // 2, SIZE // 2].min() == pytest.approx(255)


@pytest.mark.parametrize(("fill", "ranges"), [*((fill, EVERYTHING) for fill in FILLS), ("black", STRANGERS)])
def test_both_forms_of_the_warp_give_the_same_pixels(fill, ranges):
    import tensorflow as tf

    from trainers.augmentation import apply, params

    cells = np.random.default_rng(0).integers(0, 256, (32, SIZE, SIZE, 3)).astype(np.float32)
    cells[:, :5] = 0
    ranges = ranges._replace(shift=0.3, fill=fill)
    numbers = params.sample(ranges, SIZE, 0, tf.constant(params.RAMP_CELLS, tf.int64), tf.constant([32]))

    def changed(by_gathers):
        return apply.change(cells, numbers, fill, by_gathers=by_gathers)

    expected = np.asarray(changed(by_gathers=False)).astype(int)
    for compiled in (False, True):
        gathered = tf.function(changed, jit_compile=compiled)(by_gathers=True).numpy()
        differences = np.abs(gathered - expected)
        assert differences.max() <= 1, "only by rounding"
        assert (differences > 0).mean() < 0.001


def test_xla_compiles_the_whole_augmented_step():
    import keras
    import tensorflow as tf

    from trainers.augmentation import apply, params
    from trainers.models import architectures

    model = apply.augmented(architectures.basic_cnn(32), STRANGERS, by_gathers=True)
    model.compile("adam", "binary_crossentropy", jit_compile=True)
    numbers = params.sample(STRANGERS, 32, 0, tf.constant(0, tf.int64), tf.constant([4]))
    batch = (
        {"image": tf.zeros((4, 32, 32, 3), tf.uint8), "augmentation": numbers},
        tf.constant([0, 1] * 2),
    )
    if keras.backend.backend() == "tensorflow":
        # Within such a function every operation is compiled, or it is an error.
        loss = tf.function(lambda: model.train_step(batch)["loss"], jit_compile=True)()
    else:
        loss = model.fit(tf.data.Dataset.from_tensors(batch), shuffle=False, verbose=0).history["loss"][0]
    assert np.isfinite(loss)


def stain_params(gain=(1, 1, 1), contrast=(1, 1, 1), offset=(0, 0, 0)):
    return np.array([[*np.diag(gain).ravel(), *contrast, *offset]], np.float32)


def test_stain_changes_the_cell_and_leaves_the_background_black():
    from trainers.augmentation import apply

    cell = np.zeros((1, 8, 8, 3), np.float32)
    cell[:, 2:6, 2:6] = np.random.default_rng(0).uniform(50, 200, (1, 4, 4, 3))
    inside = cell[:, 2:6, 2:6]
    for given, expected in (
        (stain_params(gain=(1.1, 0.9, 1)), inside * (1.1, 0.9, 1)),
        (stain_params(offset=(5, -5, 10)), inside + np.array([5, -5, 10])),
        (stain_params(contrast=(1.2, 0.8, 1)), (inside - inside.mean((1, 2))) * (1.2, 0.8, 1) + inside.mean((1, 2))),
    ):
        changed = np.array(apply.stain(cell, given))
        np.testing.assert_allclose(changed[:, 2:6, 2:6], expected, rtol=1e-4)
        changed[:, 2:6, 2:6] = 0
        assert not changed.any()


def test_strangers_lie_on_light_and_the_others_on_black():
    import tensorflow as tf

    from trainers.augmentation import apply, params

    def sample(ranges):
        return params.sample(ranges, SIZE, 0, tf.constant(params.RAMP_CELLS, tf.int64), tf.constant([400])).numpy()

    cells = np.zeros((400, SIZE, SIZE, 3), np.uint8)
    cells[:, 8:-8, 8:-8] = 100
    ranges = Ranges(surroundings=0.6)
    numbers = sample(ranges)
    is_chosen = numbers[:, 26] == 1
    early = params.sample(ranges, SIZE, 0, tf.constant(params.RAMP_CELLS // 4, tf.int64), tf.constant([400]))
    assert 0.1 < np.mean(early[:, 26]) < 0.2, "a quarter of them by then"
    assert 0.5 < is_chosen.mean() < 0.7
    changed = np.asarray(apply.change(cells, numbers, "black", by_gathers=False))
    np.testing.assert_array_equal(changed[~is_chosen], cells[~is_chosen])
    np.testing.assert_array_equal(changed[:, 12:-12, 12:-12], 100, "the cells themselves are as before")
    corners = changed[is_chosen][:, [0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    assert corners.min() == 100, "some have a neighbour there"
    assert 0.2 < (corners == 100).any(axis=(1, 2)).mean() < 0.8
    assert (np.abs(corners.max(axis=1) - numbers[is_chosen, 27:30]) <= 1).mean() > 0.9
    # What was sampled before these ranges existed stays, so that such runs can be continued.
    np.testing.assert_array_equal(numbers[:, :23], sample(Ranges()))
    smaller = sample(ranges._replace(margin=0.5, stain_density=1.0))
    assert set(smaller[~is_chosen, 0]) == {1.0}
    assert 1 < smaller[is_chosen, 0].min() < 1.05 < 1.45 < smaller[is_chosen, 0].max() < 1.5
    assert smaller[:, 23:26].max() > 2.5


def test_blur_is_about_a_gaussian(smooth):
    import cv2

    from trainers.augmentation import apply

    image = cv2.resize(smooth, (125, 125))
    np.testing.assert_allclose(
        np.asarray(apply.blur(image[None], np.ones((1, 1, 1, 1), np.float32)))[0, 8:-8, 8:-8],
        cv2.GaussianBlur(image, (0, 0), 2)[8:-8, 8:-8],
        atol=3,
    )


def test_hue_turns_about_grey():
    import tensorflow as tf

    from trainers.augmentation import params

    key = Ranges(stain_hue_degrees=30.0)
    numbers = params.sample(key, SIZE, 1, tf.constant(0, tf.int64), tf.constant([50])).numpy()
    matrices = numbers[:, 8:17].reshape(-1, 3, 3)
    np.testing.assert_allclose(matrices @ np.ones(3), np.ones((50, 3)), atol=1e-5)
    np.testing.assert_allclose(matrices @ matrices.transpose(0, 2, 1), np.tile(np.eye(3), (50, 1, 1)), atol=1e-5)
    angles = np.rad2deg(np.arccos((np.trace(matrices, axis1=1, axis2=2) - 1) / 2))
    assert 25 < angles.max() < 30.01


def test_numbers_depend_on_seed_and_position_alone():
    import tensorflow as tf

    from trainers.augmentation import params

    def sample(seed, position, shape=(4,)):
        return params.sample(EVERYTHING, SIZE, seed, tf.constant(position, tf.int64), tf.constant(shape))

    np.testing.assert_array_equal(sample(3, 7), sample(3, 7))
    assert not np.array_equal(sample(3, 7), sample(3, 8))
    assert not np.array_equal(sample(3, 7), sample(4, 7))
    np.testing.assert_array_equal(sample(3, 7, (3, 4))[2], sample(3, 15))
    # Runs of earlier versions were augmented with these numbers: a change makes them impossible to continue.
    numbers = sample(42, 0)
    np.testing.assert_allclose(numbers[0, :3], GOLDEN_TRANSFORM, rtol=1e-4)
    np.testing.assert_allclose(numbers[0, -3:], GOLDEN_OFFSET, rtol=1e-4)


GOLDEN_TRANSFORM = [0.9427587, 0.06265625, 1.6462985]
GOLDEN_OFFSET = [1.6513214, 10.677347, 11.869627]


def test_samples_fill_their_ranges():
    import tensorflow as tf

    from trainers.augmentation import params

    numbers = params.sample(
        EVERYTHING._replace(stain_hue_degrees=0.0), SIZE, 0, tf.constant(0, tf.int64), tf.constant([4000])
    )
    transforms, stains = np.split(numbers, [8], axis=1)
    area = np.abs(transforms[:, 0] * transforms[:, 4] - transforms[:, 1] * transforms[:, 3])
    assert 0.9**2 * 0.99 < area.min() < 0.9
    assert 1.1 < area.max() <= 1.1**2
    mirrored = np.mean(transforms[:, 0] * transforms[:, 4] - transforms[:, 1] * transforms[:, 3] < 0)
    assert 0.45 < mirrored < 0.55
    gains, contrast, offset = stains[:, :9:4], stains[:, 9:12], stains[:, 12:]
    for values, centre, span in ((gains, 1, 0.15), (contrast, 1, 0.2), (offset, 0, 0.05 * 255)):
        assert np.abs(values - centre).max() <= span * 1.0001
        assert np.abs(values - centre).max() > 0.98 * span
        assert np.abs(np.mean(values) - centre) < 0.05 * span


def test_nothing_is_the_identity(smooth):
    import tensorflow as tf

    from trainers.augmentation import apply, params

    numbers = params.sample(Ranges(), SIZE, 0, tf.constant(0, tf.int64), tf.constant([1]))
    image = np.round(smooth)[None]
    changed = apply.change(image, numbers, "nearest", by_gathers=False)
    np.testing.assert_array_equal(changed, image)
    assert Ranges(fill="nearest").is_nothing
    assert not Ranges(flip="horizontal").is_nothing


def test_the_training_model_shares_its_weights_and_holds_stock_layers_alone():
    from trainers.augmentation import apply
    from trainers.models import architectures

    model = architectures.basic_cnn(32)
    trained = apply.augmented(model, EVERYTHING, by_gathers=True)
    assert [id(weight) for weight in trained.trainable_variables] == [
        id(weight) for weight in model.trainable_variables
    ]
    assert {type(layer).__module__.partition(".")[0] for layer in model.layers} == {"keras"}
    assert set(trained.input) == {"image", "augmentation"}
