import numpy as np
import pytest
import tensorflow as tf
from conftest import prepare

from pipeline.errors import InputError
from pipeline.layout import dataset_dir
from trainers import input_pipeline
from trainers.splits import Split, open_split, overlap


@pytest.fixture(scope="session")
def train(data_dir):
    return open_split(dataset_dir(str(data_dir), "by_patient"), "train")


def rows(dataset):
    """Each batch as the rows of the split that it holds, found by their pixels."""
    return [(images.numpy(), labels.numpy()) for images, labels in dataset]


def numbered(split):
    """The split's cells by their pixels."""
    cells = input_pipeline.load(split)
    numbers = {image.tobytes(): i for i, image in enumerate(cells.images)}
    assert len(numbers) == split.num_cells, "the cells must differ for this test"
    return cells, numbers


def order(batches, numbers):
    return [[numbers[image.tobytes()] for image in images] for images, _ in batches]


def test_load_keeps_the_records_order_and_labels(data_dir, train):
    import tensorflow_datasets as tfds

    cells = input_pipeline.load(train)
    examples = list(
        tfds.load(
            "tfds_malaria/by_patient",
            data_dir=data_dir,
            split="train",
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
        ).as_numpy_iterator()
    )
    assert [e["filename"] for e in examples] == cells.filenames.tolist()
    assert [e["patient_id"] for e in examples] == cells.patient_ids.tolist()
    np.testing.assert_array_equal([e["label"] for e in examples], cells.labels)
    np.testing.assert_array_equal([e["image"] for e in examples], cells.images)


@pytest.mark.parametrize("expression", ["train[:10%]", "train[30:]", "train[:5]+validation", "test[20%:60%]"])
def test_split_expressions_are_tfdss(expression, data_dir):
    import tensorflow_datasets as tfds

    directory = dataset_dir(str(data_dir), "by_patient")
    split = open_split(directory, expression)
    read_config = tfds.ReadConfig(interleave_cycle_length=1)
    theirs = tfds.builder_from_directory(directory).as_dataset(split=expression, read_config=read_config)
    names = sorted(e["filename"] for e in theirs.as_numpy_iterator())
    assert sorted(input_pipeline.load(split).filenames.tolist()) == names
    assert split.num_cells == len(names)


@pytest.mark.parametrize("expression", ["trian", "train[", "fold_0", "train[:0]", ""])
def test_other_expressions_are_refused(expression, data_dir):
    with pytest.raises(InputError, match="--train_split="):
        open_split(dataset_dir(str(data_dir), "by_patient"), expression, "train_split")


def test_overlap(data_dir):
    directory = dataset_dir(str(data_dir), "by_patient")
    whole, first, last, test = (open_split(directory, text) for text in ("train", "train[:30]", "train[20:40]", "test"))
    assert overlap(first, last) == 10
    assert overlap(whole, last) == 20
    assert overlap(whole, test) == 0


@pytest.mark.parametrize("mode", ["resident", "streaming"])
@pytest.mark.parametrize("batch_size", [16, 7])
def test_every_epoch_is_a_permutation(train, mode, batch_size):
    cells, numbers = numbered(train)
    batches = rows(input_pipeline.training_batches(train, batch_size, seed=3, epochs=2, mode=mode))
    steps = -(-train.num_cells // batch_size)
    assert len(batches) == 2 * steps
    epochs = [[row for batch in order(part, numbers) for row in batch] for part in (batches[:steps], batches[steps:])]
    assert [len(labels) for _, labels in batches[:steps]] == [batch_size] * (steps - 1) + [
        train.num_cells - batch_size * (steps - 1)
    ]
    for epoch in epochs:
        assert sorted(epoch) == list(range(train.num_cells))
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])
    for images, labels in batches:
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(labels, cells.labels[[numbers[image.tobytes()] for image in images]])


@pytest.mark.parametrize("mode", ["resident", "streaming"])
def test_the_seed_decides_and_any_step_can_be_the_first(train, mode):
    _, numbers = numbered(train)

    def batches(seed=3, start_step=0):
        return order(rows(input_pipeline.training_batches(train, 16, seed, 2, mode, start_step)), numbers)

    whole = batches()
    assert batches() == whole
    assert batches(seed=4) != whole
    assert batches(start_step=11) == whole[11:]


def test_pinned_order():
    """Golden: resumed runs and compared runs rely on this order."""
    positions = tf.range(10, dtype=tf.int64)
    found = [
        input_pipeline.permute(positions, 42, tf.constant(epoch, tf.int64), tf.constant(10, tf.int64)).numpy().tolist()
        for epoch in (0, 1)
    ]
    assert found == [[3, 9, 4, 2, 0, 6, 7, 8, 1, 5], [0, 7, 3, 9, 4, 5, 6, 8, 2, 1]]


def test_evaluation_sees_every_cell_once_in_order(train):
    cells = input_pipeline.load(train)
    batches = list(input_pipeline.evaluation_batches(train, 16))
    assert len(batches) == -(-train.num_cells // 16)
    np.testing.assert_array_equal(np.concatenate([image for image, *_ in batches]), cells.images)
    np.testing.assert_array_equal(np.concatenate([label for _, label, *_ in batches]), cells.labels)
    assert np.concatenate([name for *_, name, _ in batches]).tolist() == cells.filenames.tolist()
    assert np.concatenate([patient for *_, patient in batches]).tolist() == cells.patient_ids.tolist()


def test_png_records_are_decoded(source, tmp_path):
    raw = prepare(source, tmp_path / "raw", image_size_px=10)
    png = prepare(source, tmp_path / "png", image_size_px=10, image_encoding="png")
    ours, theirs = (input_pipeline.load(open_split(outcome.directory, "train")) for outcome in (raw, png))
    np.testing.assert_array_equal(ours.images, theirs.images)


def test_auto_is_resident_where_it_fits(train, capsys):
    assert input_pipeline.choose_mode("auto", [train]) == "resident"
    assert "input: resident" in capsys.readouterr().out
    huge = Split("train", ("a",), (0,), (10**9,), 125, False)
    assert input_pipeline.choose_mode("auto", [huge]) == "streaming"
    assert input_pipeline.choose_mode("resident", [huge]) == "resident"


def test_a_damaged_or_missing_shard_is_named(source, tmp_path):
    directory = prepare(source, tmp_path, image_size_px=10).directory
    split = open_split(directory, "train")
    path = directory / "tfds_malaria-train.tfrecord-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"train.tfrecord-00000-of-00001 is damaged"):
        input_pipeline.load(split)
    content[500] ^= 1
    record = len(content) // split.num_cells
    path.write_bytes(bytes(content[:-record]))
    with pytest.raises(InputError, match=r"train.tfrecord-00000-of-00001 (is damaged|has \d+ records, expected)"):
        input_pipeline.load(split)
    path.unlink()
    with pytest.raises(InputError, match=r"train.tfrecord-00000-of-00001 is damaged"):
        input_pipeline.load(split)
