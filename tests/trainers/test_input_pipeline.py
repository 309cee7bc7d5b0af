"""Splits, orders, hosts and modes of the batches that models are trained on; what happens where shards are corrupt."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import open_split, prepare, replace_image_by_zeros, write_source

from pipeline.errors import InputError
from pipeline.records import layout
from trainers.data import open_data_set, overlap
from trainers.input_pipeline import batching, input_stall, memory, resident
from trainers.input_pipeline.shuffle_order import ShuffleOrder

MODES = ["resident", "mapped", "streaming"]


@pytest.fixture(scope="session")
def train(data_dir):
    return open_split(data_dir, "train")


def batches_of(split, mode, batch_size=16, seed=3, epochs=2, start_step=0, hosts=(0, 1)):
    """Each batch as (images, labels)."""
    order = ShuffleOrder(split.num_cells, batch_size, seed, *hosts)
    dataset = batching.training_batches(split, order, epochs, mode, start_step)
    return [tuple(column.numpy() for column in batch) for batch in dataset]


@pytest.fixture(scope="session")
def numbers(train):
    """The index of each cell of the train split by its pixels."""
    numbers = {image.tobytes(): i for i, image in enumerate(resident.load(train).images)}
    assert len(numbers) == train.num_cells, "the cells must differ for these tests"
    return numbers


def indices(batches, numbers):
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


@pytest.mark.parametrize("expression", ["train[:5]+validation", "test[20%:60%]"])
def test_split_expressions_are_tfdss(expression, data_dir):
    import tensorflow_datasets as tfds

    data_set = open_data_set(str(data_dir), "by_patient")
    split = data_set.open_split(expression)
    read_config = tfds.ReadConfig(interleave_cycle_length=1)
    theirs = data_set.builder.as_dataset(split=expression, read_config=read_config)
    names = sorted(e["filename"] for e in theirs.as_numpy_iterator())
    ours = [name for batch in batching.evaluation_batches(split, 16) for name in batch[2].numpy()]
    assert sorted(ours) == names
    assert split.num_cells == len(names)


@pytest.mark.parametrize(
    "expression", ["trian", "train[", "fold_0", "train[:0]", "", "train+train", "train[:9]+train[8:]"]
)
def test_other_expressions_are_refused(expression, data_dir):
    with pytest.raises(InputError, match="--train_split="):
        open_data_set(str(data_dir), "by_patient").open_split(expression, "train_split")


def test_a_missing_data_set_gives_the_command_that_makes_it(tmp_path):
    with pytest.raises(InputError, match=r"python -m pipeline.preprocess .*--config=by_cell"):
        open_data_set(str(tmp_path), "by_cell")
    assert not list(tmp_path.iterdir())


def test_overlap(data_dir):
    train, first, last, test = (open_split(data_dir, text) for text in ("train", "train[:30]", "train[20:40]", "test"))
    assert overlap(first, last) == 10
    assert overlap(train, last) == 20
    assert overlap(train, test) == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch_size", [16, 7])
def test_every_epoch_is_a_permutation(train, numbers, mode, batch_size):
    labels = resident.load(train).labels
    batches = batches_of(train, mode, batch_size)
    steps = -(-train.num_cells // batch_size)
    assert len(batches) == 2 * steps
    epochs = [
        [index for batch in indices(part, numbers) for index in batch] for part in (batches[:steps], batches[steps:])
    ]
    last = train.num_cells - batch_size * (steps - 1)
    assert [len(images) for images, _ in batches[:steps]] == [batch_size] * (steps - 1) + [last]
    for epoch in epochs:
        assert sorted(epoch) == list(range(train.num_cells))
        assert epoch != sorted(epoch)
    assert epochs[0] != epochs[1]
    for (images, batch_labels), cells in zip(batches, indices(batches, numbers), strict=True):
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(batch_labels, labels[cells])


@pytest.mark.parametrize("mode", MODES)
def test_the_seed_decides_and_any_step_can_be_the_first(train, numbers, mode):
    expected = indices(batches_of(train, mode), numbers)
    assert indices(batches_of(train, mode), numbers) == expected
    assert indices(batches_of(train, mode, seed=4), numbers) != expected
    assert indices(batches_of(train, mode, start_step=11), numbers) == expected[11:]


@pytest.mark.parametrize("mode", MODES)
def test_tensorflows_global_seed_changes_nothing(train, numbers, mode):
    """A training sets it to its `--seed`; TensorFlow's own shuffle takes 0 badly."""
    expected = indices(batches_of(train, mode), numbers)
    tf.random.set_seed(0)
    try:
        assert indices(batches_of(train, mode), numbers) == expected
    finally:
        tf.random.set_seed(None)


def test_resident_and_mapped_are_the_same_batch_by_batch(train):
    for ours, theirs in zip(batches_of(train, "resident"), batches_of(train, "mapped"), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [2, 4])
def test_hosts_share_each_batch(train, numbers, mode, count):
    alone = indices(batches_of(train, mode, 15, epochs=1), numbers)
    hosts = [indices(batches_of(train, mode, 15, epochs=1, hosts=(i, count)), numbers) for i in range(count)]
    assert [[index for part in parts for index in part] for parts in zip(*hosts, strict=True)] == alone
    assert max(len(part) for host in hosts for part in host) <= -(-15 // count)


def test_pinned_order():
    """Golden: resumed runs and compared runs rely on this order."""
    order = ShuffleOrder(10, 4, 42)
    batches = [order.indices(tf.constant(step, tf.int64)).numpy().tolist() for step in range(6)]
    assert batches == [[3, 9, 4, 2], [0, 6, 7, 8], [1, 5], [0, 7, 3, 9], [4, 5, 6, 8], [2, 1]]


def test_pinned_order_of_streaming(train, numbers):
    """Golden: of 5 batches of 4 from step 30 on, the first cell of each."""
    batches = batches_of(train, "streaming", 4, start_step=30)[:5]
    assert [cells[0] for cells in indices(batches, numbers)] == [46, 49, 3, 50, 108]


def test_evaluation_sees_every_cell_once_in_order(train):
    cells = resident.load(train)
    batches = list(batching.evaluation_batches(train, 16))
    assert len(batches) == -(-train.num_cells // 16)
    np.testing.assert_array_equal(np.concatenate([image for image, *_ in batches]), cells.images)
    np.testing.assert_array_equal(np.concatenate([label for _, label, *_ in batches]), cells.labels)


def test_auto_takes_the_first_mode_that_is_possible(train, capsys, monkeypatch):
    assert batching.choose_mode("auto", train) == "resident"
    assert "input: resident" in capsys.readouterr().out
    monkeypatch.setattr(memory, "free_bytes", lambda: 2 * train.num_bytes - 1)
    assert batching.choose_mode("auto", train) == "mapped"
    assert "input: mapped" in capsys.readouterr().out
    foreign = train._replace(files=tuple(f"{file}.foreign" for file in train.files))
    assert batching.choose_mode("auto", foreign) == "streaming"
    assert batching.choose_mode("resident", foreign) == "resident"
    with pytest.raises(InputError, match="--input=mapped needs shards on a local disk"):
        batching.choose_mode("mapped", foreign)
    assert not train._replace(files=("s3://cells/a",)).is_mappable


V2 = ("memory.max", "memory.current", "anon 5\ninactive_file {}")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "cache 5\ntotal_inactive_file {}")
NO_LIMIT = ("max", 700, 0)


@pytest.mark.parametrize(
    ("cgroup", "names", "groups", "expected"),
    [  # group -> limit, usage, page cache
        ("0::/job/step\n", V2, {"job/step": (1000, 700, 200)}, 500),
        ("0::/job/step\n", V2, {"job/step": NO_LIMIT, "job": (1000, 900, 10), "": (5000, 900, 0)}, 110),
        ("0::/job/step\n", V2, {"job/step": (1000, 100, 0), "job": NO_LIMIT, "": (5000, 4900, 50)}, 150),
        ("0::/\n", V2, {"": (1000, 700, 0)}, 300),
        ("0::/../other\n", V2, {"": (1000, 1700, 0)}, 0),
        (
            "3:cpu:/x\n2:memory,io:/slurm/job\n",
            V1,
            {"memory/slurm/job": (9000, 7, 0), "memory/slurm": (1000, 7, 6)},
            999,
        ),
        ("4:memory:/docker/of-the-host\n0::/\n", V1, {"memory": (1000, 700, 0)}, 300),
        ("0::/job\n", V2, {"job": NO_LIMIT}, None),
        ("3:cpu:/x\n", V1, {"x": (1, 0, 0), "memory/x": (1, 0, 0)}, None),
        (None, V2, {"": (1, 0, 0)}, None),
    ],
)
def test_the_least_of_a_control_group_and_all_above_it_counts(cgroup, names, groups, expected, tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    if cgroup:
        (tmp_path / "proc/self/cgroup").write_text(cgroup)
    for group, (limit, usage, cache) in groups.items():
        folder = tmp_path / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in zip((*names[:2], "memory.stat"), (limit, usage, names[2].format(cache)), strict=True):
            (folder / name).write_text(f"{content}\n")
    if expected is None:
        assert memory.free_bytes(tmp_path) > 1 << 20
    else:
        assert memory.free_bytes(tmp_path) == expected


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """A folder with a data set by each image encoding."""
    folder = tmp_path_factory.mktemp("encoded")
    source = write_source(folder / "cells")
    for encoding in ("raw", "png"):
        prepare(source, folder / encoding, image_size_px=10, image_encoding=encoding)
    return folder


@pytest.fixture(params=["raw", "png"])
def small(encoded, tmp_path, request):
    """A train split of one shard, and the shard."""
    shutil.copytree(encoded / request.param, tmp_path / "small")
    split = open_split(tmp_path / "small", "train")
    return split, Path(split.files[0])


def read_as_training_does(split, mode):
    with batching.reading(split):
        if mode == "evaluation":
            return list(batching.evaluation_batches(split, 4))
        return batches_of(split, mode, 4, epochs=1)


@pytest.mark.parametrize("mode", [*MODES, "evaluation", "without index"])
def test_what_is_corrupt_is_named_in_every_mode(small, mode):
    split, path = small
    intact, index = path.read_bytes(), Path(layout.index_name(str(path)))
    flipped = bytearray(intact)
    flipped[np.load(index)[2, 1] + 5] ^= 1
    replace_image_by_zeros(path, 2)
    no_png = path.read_bytes()
    if mode == "without index":
        mode = "resident"
        index.unlink()
    for content, problem in (
        (flipped, "record 2 is corrupt .*"),
        *([(no_png, "record 2 is corrupt .*no PNG.*")] if split.is_png else []),
        (intact[:-100], ""),
        (b"", ""),
        (None, ""),
    ):
        path.unlink()  # not rewritten: threads of the batches that failed may still read its memory map
        if content is not None:
            path.write_bytes(content)
        pattern = f"train.tfrecord-00000-of-00001: {problem}.*pipeline.verify.*--repair"
        with pytest.raises(InputError, match=pattern):
            read_as_training_does(split, mode)


def test_errors_of_intact_shards_are_not_explained(train):
    missing = train._replace(files=("missing",) * len(train.files))
    for error, split in ((tf.errors.UnknownError, train), (tf.errors.ResourceExhaustedError, missing)):
        with pytest.raises(error), batching.reading(split):
            raise error(None, None, "?")


@pytest.mark.parametrize("small", ["raw"], indirect=True)
def test_an_index_that_is_not_the_manifests_is_refused(small):
    split, path = small
    index = np.load(layout.index_name(str(path)))
    index[:, 1] += 1
    np.save(layout.index_name(str(path)), index)
    with pytest.raises(InputError, match="not what the manifest says"):
        batches_of(split, "mapped")


@pytest.mark.parametrize("mode", MODES)
def test_png_records_are_decoded(encoded, mode):
    raw, png = (batches_of(open_split(encoded / encoding, "train"), mode) for encoding in ("raw", "png"))
    for one, other in zip(raw, png, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_without_an_index_resident_reads_record_by_record(small):
    split, path = small
    expected = resident.load(split)
    Path(layout.index_name(str(path))).unlink()
    assert not split.is_mappable
    for column, wanted in zip(resident.load(split), expected, strict=True):
        np.testing.assert_array_equal(column, wanted)


def test_mapped_takes_no_memory_that_grows_with_the_data(tmp_path):
    def anonymous_bytes():
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("RssAnon")).split()[1]) * 1024

    source = write_source(tmp_path / "cells", num_patients=60, cells_each=3)
    prepare(source, tmp_path / "data", image_size_px=512, cells_per_shard=128)
    split = open_split(tmp_path / "data", "train")
    batches = batching.training_batches(split, ShuffleOrder(split.num_cells, 2, 3), 1, "mapped")
    list(batches.take(8))  # TensorFlow's own threads and kernels
    before = anonymous_bytes()
    most = max(anonymous_bytes() for _ in batches)
    assert (most - before) / split.num_bytes < 0.25


def test_the_stall_is_measured_both_ways():
    def share(seconds_to_make, seconds_to_use):
        slow = tf.data.Dataset.range(30).map(
            lambda i: (tf.numpy_function(lambda x: time.sleep(seconds_to_make) or x, [i], tf.int64), i)
        )
        stall = input_stall.InputStall()
        started = None
        for _ in input_stall.measured(slow.prefetch(4), stall):
            if started is None:  # the first batch waits for the data set to be built
                stall.reset()
                started = time.perf_counter()
            time.sleep(seconds_to_use)
            ended = time.perf_counter()
        return stall.seconds / (ended - started)

    assert share(0.02, 0.0) > 0.5
    assert share(0.0, 0.02) < 0.05


def test_the_message_names_the_flag():
    waited = "input: waited 0.4% of the step time for data"
    assert input_stall.message(0.004, "streaming", 271) == f"{waited}: not input-bound"
    assert "input-bound; give --input=resident" in input_stall.message(0.5, "streaming", 271)
    assert "input-bound; give --input=resident" in input_stall.message(0.5, "mapped", 271)
    assert "input-bound; give a larger --batch_size" in input_stall.message(0.5, "resident", 271)
    assert input_stall.message(0.5, "resident", 4).endswith(
        "50.0% of the step time for data, in 4 steps: too few to judge"
    )
