"""ShuffleOrder, hosts, modes and damage of the batches that the models are trained on."""

import hashlib
import json
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, prepare, replace_image_by_zeros, write_source
from etils import epath
from trainers.input_pipeline.corruption import DamagedRecords
from trainers.input_pipeline.splits import Split, open_split, overlap

from pipeline import storage
from pipeline.errors import InputError
from pipeline.records import layout, tfrecord
from pipeline.records.layout import dataset_dir
from trainers.input_pipeline import batching, memory, resident
from trainers.input_pipeline.input_stall import Waiting, measured, verdict
from trainers.input_pipeline.mapped import is_mappable
from trainers.input_pipeline.shuffle_order import ShuffleOrder, permute

MODES = ["resident", "mapped", "streaming"]


@pytest.fixture(scope="session")
def train(data_dir):
    return open_split(dataset_dir(str(data_dir), "by_patient"), "train")


def batches_of(split, mode, batch_size=16, seed=3, epochs=2, start_step=0, hosts=(0, 1), **options):
    """Each batch as (images, labels, …)."""
    order = ShuffleOrder(split.num_cells, batch_size, seed, *hosts)
    dataset = batching.training_batches(split, order, epochs, mode, start_step, **options)
    return [tuple(column.numpy() for column in batch) for batch in dataset]


@pytest.fixture(scope="session")
def numbers(train):
    """The train split's rows by their pixels."""
    numbers = {image.tobytes(): i for i, image in enumerate(resident.load(train).images)}
    assert len(numbers) == train.num_cells, "the cells must differ for these tests"
    return numbers


def rows(batches, numbers):
    return [[numbers[image.tobytes()] for image in batch[0]] for batch in batches]


def test_load_keeps_the_records_order_and_labels(data_dir, train):
    import tensorflow_datasets as tfds

    cells = resident.load(train)
    examples = list(
        tfds.load(
            "tfds_malaria/by_patient",
            data_dir=data_dir,
            split="train",
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
        ).as_numpy_iterator()
    )
    np.testing.assert_array_equal([e["label"] for e in examples], cells.labels)
    np.testing.assert_array_equal([e["image"] for e in examples], cells.images)
    assert not cells.is_damaged.any()


@pytest.mark.parametrize("expression", ["train[:10%]", "train[30:]", "train[:5]+validation", "test[20%:60%]"])
def test_split_expressions_are_tfdss(expression, data_dir):
    import tensorflow_datasets as tfds

    directory = dataset_dir(str(data_dir), "by_patient")
    split = open_split(directory, expression)
    read_config = tfds.ReadConfig(interleave_cycle_length=1)
    theirs = tfds.builder_from_directory(directory).as_dataset(split=expression, read_config=read_config)
    names = sorted(e["filename"] for e in theirs.as_numpy_iterator())
    ours = [name for batch in batching.evaluation_batches(split, 16) for name in batch[2].numpy()]
    assert sorted(ours) == names
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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch_size", [16, 7])
def test_every_epoch_is_a_permutation(train, numbers, mode, batch_size):
    labels = resident.load(train).labels
    batches = batches_of(train, mode, batch_size)
    steps = -(-train.num_cells // batch_size)
    assert len(batches) == 2 * steps
    epochs = [[row for batch in rows(part, numbers) for row in batch] for part in (batches[:steps], batches[steps:])]
    last = train.num_cells - batch_size * (steps - 1)
    assert [len(images) for images, _ in batches[:steps]] == [batch_size] * (steps - 1) + [last]
    for epoch in epochs:
        assert sorted(epoch) == list(range(train.num_cells))
        assert epoch != sorted(epoch)
    assert epochs[0] != epochs[1]
    for (images, its_labels), its_rows in zip(batches, rows(batches, numbers), strict=True):
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(its_labels, labels[its_rows])


@pytest.mark.parametrize("mode", MODES)
def test_the_seed_decides_and_any_step_can_be_the_first(train, numbers, mode):
    whole = rows(batches_of(train, mode), numbers)
    assert rows(batches_of(train, mode), numbers) == whole
    assert rows(batches_of(train, mode, seed=4), numbers) != whole
    assert rows(batches_of(train, mode, start_step=11), numbers) == whole[11:]


@pytest.mark.parametrize("mode", ["resident", "mapped", "streaming"])
@pytest.mark.parametrize("global_seed", [0, 5])
def test_tensorflows_global_seed_changes_nothing(train, numbers, mode, global_seed):
    """A training sets it to its `--seed`, 0 included, which TensorFlow's own shuffle takes badly."""
    whole = rows(batches_of(train, mode), numbers)
    tf.random.set_seed(global_seed)
    try:
        assert rows(batches_of(train, mode), numbers) == whole
    finally:
        tf.random.set_seed(None)


def test_resident_and_mapped_are_the_same_batch_by_batch(train):
    for ours, theirs in zip(batches_of(train, "resident"), batches_of(train, "mapped"), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [2, 4])
def test_hosts_share_each_batch(train, numbers, mode, count):
    alone = rows(batches_of(train, mode, 15, epochs=1), numbers)
    hosts = [rows(batches_of(train, mode, 15, epochs=1, hosts=(i, count)), numbers) for i in range(count)]
    assert [[row for part in parts for row in part] for parts in zip(*hosts, strict=True)] == alone
    assert max(len(part) for host in hosts for part in host) <= -(-15 // count)


@pytest.mark.parametrize("mode", MODES)
def test_file_names_and_patients_on_request(train, mode):
    for images, labels, names, patients in batches_of(train, mode, epochs=1, with_keys=True):
        assert len(images) == len(labels) == len(names) == len(patients)
        for label, name, patient in zip(labels, names.tolist(), patients.tolist(), strict=True):
            assert name.split(b"/")[1].startswith(patient)
            assert label == name.startswith(b"Parasitized/")


@pytest.mark.parametrize("has_index", [True, False])
def test_keys_stay_with_their_cells_where_records_are_skipped(small, has_index):
    split, path = small
    whole = {bytes(batch[0][i]): batch[2][i] for batch in batches_of(split, "mapped", with_keys=True) for i in range(2)}
    damage(path, 1, 6)
    if not has_index:
        storage.epath.Path(layout.index_name(str(path))).unlink()
    batches = batches_of(split, "resident", 4, epochs=1, damaged=DamagedRecords(2), with_keys=True)
    seen = {bytes(image): name for batch in batches for image, name in zip(batch[0], batch[2], strict=True)}
    assert len(seen) == split.num_cells - 2
    shared = whole.keys() & seen.keys()
    assert shared
    assert all(whole[image] == seen[image] for image in shared)


RESUME = """
import hashlib, json, sys
from trainers.input_pipeline import batching
from trainers.input_pipeline.shuffle_order import ShuffleOrder
from trainers.input_pipeline.splits import open_split
from pipeline.layout import dataset_dir
split = open_split(dataset_dir(sys.argv[1], "by_patient"), "train")
for mode in ("resident", "mapped", "streaming"):
    batches = batching.training_batches(split, ShuffleOrder(split.num_cells, 4, 3), 9, mode, start_step=50).take(50)
    print(json.dumps([hashlib.sha256(image.numpy().tobytes()).hexdigest() for image, _ in batches]))
"""


def test_another_process_continues_exactly_where_one_stopped(train, data_dir):
    result = subprocess.run(
        [sys.executable, "-c", RESUME, data_dir], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for mode, line in zip(MODES, result.stdout.splitlines(), strict=True):
        whole = batches_of(train, mode, 4, epochs=9)[50:100]
        assert json.loads(line) == [hashlib.sha256(image.tobytes()).hexdigest() for image, _ in whole], mode


def test_pinned_order():
    """Golden: resumed runs and compared runs rely on this order."""
    positions = tf.range(10, dtype=tf.int64)
    found = [
        permute(positions, 42, tf.constant(epoch, tf.int64), tf.constant(10, tf.int64)).numpy().tolist()
        for epoch in (0, 1)
    ]
    assert found == [[3, 9, 4, 2, 0, 6, 7, 8, 1, 5], [0, 7, 3, 9, 4, 5, 6, 8, 2, 1]]
    order = ShuffleOrder(10, 4, 42)
    batches = [order.rows(tf.constant(step, tf.int64)).numpy().tolist() for step in range(4)]
    assert batches == [[3, 9, 4, 2], [0, 6, 7, 8], [1, 5], [0, 7, 3, 9]]


def test_evaluation_sees_every_cell_once_in_order(train):
    cells = resident.load(train)
    batches = list(batching.evaluation_batches(train, 16))
    assert len(batches) == -(-train.num_cells // 16)
    np.testing.assert_array_equal(np.concatenate([image for image, *_ in batches]), cells.images)
    np.testing.assert_array_equal(np.concatenate([label for _, label, *_ in batches]), cells.labels)


@pytest.mark.parametrize("mode", MODES)
def test_png_records_are_decoded(source, tmp_path, mode):
    raw = prepare(source, tmp_path / "raw", image_size_px=10)
    png = prepare(source, tmp_path / "png", image_size_px=10, image_encoding="png")
    ours, theirs = (batches_of(open_split(outcome.directory, "train"), mode) for outcome in (raw, png))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


@pytest.mark.parametrize(("mode", "has_index"), [("resident", True), ("resident", False), ("mapped", True)])
def test_a_whole_record_that_is_no_png_is_named(source, tmp_path, mode, has_index):
    directory = prepare(source, tmp_path, image_size_px=10, image_encoding="png").directory
    path = directory / "tfds_malaria-train.tfrecord-00000-of-00001"
    replace_image_by_zeros(path, 2)
    if not has_index:
        epath.Path(layout.index_name(str(path))).unlink()
    with pytest.raises(InputError, match=r"train.tfrecord-00000-of-00001 is damaged .*no PNG.*pipeline.verify"):
        read_as_training_does(open_split(directory, "train"), mode)


def test_auto_takes_the_first_mode_that_is_possible(train, capsys, monkeypatch):
    assert batching.choose_mode("auto", [train]) == "resident"
    assert "input: resident" in capsys.readouterr().out
    monkeypatch.setattr(memory, "free_bytes", lambda: 2 * train.num_bytes - 1)
    assert batching.choose_mode("auto", [train]) == "mapped"
    assert "input: mapped" in capsys.readouterr().out
    foreign = train._replace(files=tuple(f"{file}.foreign" for file in train.files))
    assert batching.choose_mode("auto", [foreign]) == "streaming"
    assert batching.choose_mode("resident", [foreign]) == "resident"
    with pytest.raises(InputError, match="--input=mapped needs shards on a local disk"):
        batching.choose_mode("mapped", [foreign])
    assert not is_mappable(Split("train", ("s3://cells/a",), (0,), (1,), 125, False))


def test_a_containers_limit_counts(tmp_path):
    assert memory.free_bytes(tmp_path, tmp_path) > 1 << 20
    for name, content in (("memory.max", "1000"), ("memory.current", "700"), ("memory.stat", "anon 5\nfile 200\n")):
        (tmp_path / name).write_text(content)
    assert memory.free_bytes(tmp_path, tmp_path / "no") == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes(tmp_path, tmp_path / "no") > 1 << 20


@pytest.fixture
def small(source, tmp_path):
    """A train split of one shard, and the shard."""
    directory = prepare(source, tmp_path / "small", image_size_px=10).directory
    return open_split(directory, "train"), directory / "tfds_malaria-train.tfrecord-00000-of-00001"


def damage(path, *records):
    """Flips a byte of the image in some records."""
    index = np.load(layout.index_name(str(path)))
    content = bytearray(path.read_bytes())
    for record in records:
        content[index[record, 1] + 5] ^= 1
    path.write_bytes(bytes(content))


def read_as_training_does(split, mode, damaged=None):
    try:
        return batches_of(split, mode, 4, epochs=1, damaged=damaged)
    except tf.errors.OpError as error:
        raise batching.explain(error, [split]) from error


@pytest.mark.parametrize("mode", MODES)
def test_a_damaged_record_is_named(small, mode):
    split, path = small
    damage(path, 2)
    with pytest.raises(InputError, match=r"train.tfrecord-00000-of-00001: record 2 is damaged; .*pipeline.verify"):
        read_as_training_does(split, mode)


@pytest.mark.parametrize("mode", MODES)
def test_damaged_records_may_be_skipped_and_are_listed(small, mode):
    split, path = small
    whole = {image.tobytes() for image in np.delete(resident.load(split).images, [1, 6], axis=0)}
    damage(path, 1, 6)
    damaged = DamagedRecords(2)
    batches = read_as_training_does(split, mode, damaged)
    images = [image.tobytes() for batch in batches for image in batch[0]]
    assert len(images) == split.num_cells - 2
    assert set(images) == whole
    assert len(batches) == -(-split.num_cells // 4)
    assert [record for _, record in damaged.found] == [1, 6]
    with pytest.raises(InputError, match="--max_corrupt_records=2 or more"):
        read_as_training_does(split, mode, DamagedRecords(1))


def test_skipping_keeps_resident_and_mapped_alike(small):
    split, path = small
    damage(path, 1, 6)
    one, other = (read_as_training_does(split, mode, DamagedRecords(2)) for mode in ("resident", "mapped"))
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("change", ["empty", "truncated", "missing"])
def test_a_shard_that_is_not_whole_is_named(small, mode, change):
    split, path = small
    content = path.read_bytes()
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if change == "empty" else content[:-100])
    with pytest.raises(InputError, match=r"train.tfrecord-00000-of-00001"):
        read_as_training_does(split, mode)


def test_an_index_that_is_not_the_manifests_is_refused(small):
    split, path = small
    index = np.load(layout.index_name(str(path)))
    index[:, 1] += 1
    np.save(layout.index_name(str(path)), index)
    with pytest.raises(InputError, match="not what the manifest says"):
        batches_of(split, "mapped")


def test_without_an_index_resident_reads_record_by_record(small):
    split, path = small
    expected = resident.load(split)
    storage.epath.Path(layout.index_name(str(path))).unlink()
    assert not is_mappable(split)
    found = resident.load(split)
    np.testing.assert_array_equal(found.images, expected.images)
    np.testing.assert_array_equal(found.labels, expected.labels)
    damage_by_hand = bytearray(path.read_bytes())
    damage_by_hand[tfrecord.HEADER_BYTES + 50] ^= 1
    path.write_bytes(bytes(damage_by_hand))
    with pytest.raises(InputError, match="record 0 is damaged"):
        resident.load(split)
    damaged = DamagedRecords(1)
    assert resident.load(split, damaged).is_damaged.tolist() == [True] + [False] * (split.num_cells - 1)


RSS = """
import sys
from trainers.input_pipeline import batching
from trainers.input_pipeline.shuffle_order import ShuffleOrder
from trainers.input_pipeline.splits import open_split
split = open_split(sys.argv[1], "train")
def anonymous():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) * 1024
list(batching.evaluation_batches(split, 1).take(1))  # TensorFlow's own threads and kernels
before, most = anonymous(), 0
for images, _ in batching.training_batches(split, ShuffleOrder(split.num_cells, 2, 3), 2, "mapped"):
    most = max(most, anonymous())
print((most - before) / split.num_bytes)
"""


def test_mapped_takes_no_memory_that_grows_with_the_data(tmp_path):
    source = write_source(tmp_path / "cells", num_patients=60, cells_each=12)
    directory = prepare(source, tmp_path / "data", image_size_px=512, cells_per_shard=128).directory
    result = subprocess.run(
        [sys.executable, "-c", RSS, directory], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 0.1


def test_waiting_is_measured_both_ways():
    def share(seconds_to_make, seconds_to_use):
        slow = tf.data.Dataset.range(30).map(
            lambda i: (tf.numpy_function(lambda x: time.sleep(seconds_to_make) or x, [i], tf.int64), i)
        )
        waiting = Waiting()
        started = None
        for _ in measured(slow.prefetch(4), waiting):
            if started is None:  # the first batch waits for the data set to be built
                waiting.reset()
                started = time.perf_counter()
            time.sleep(seconds_to_use)
            ended = time.perf_counter()
        return waiting.seconds / (ended - started)

    assert share(0.02, 0.0) > 0.5
    assert share(0.0, 0.02) < 0.05


def test_the_verdict_names_the_flag():
    assert verdict(0.004, "streaming") == "input: waited 0.4% of the step time for data: not input-bound"
    assert "input-bound; give --input=resident" in verdict(0.5, "streaming")
    assert "input-bound; give --input=resident" in verdict(0.5, "mapped")
    assert "input-bound; give a larger --batch_size" in verdict(0.5, "resident")
