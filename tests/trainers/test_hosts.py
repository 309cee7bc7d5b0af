"""Several hosts: who they are, how they meet, and which cells each one gets; `test_jax` trains with them."""

import copy
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_one_line_error, free_port, run_in_process

from pipeline.errors import InputError
from trainers import run_dir
from trainers.input_pipeline.shuffle_order import ShuffleOrder
from trainers.training import hosts


def meet(run_folder, wanted_by_host, timeout_seconds=30.0, num_missing=0):
    """Lets hosts meet in threads; returns the error of each, or the run of all."""
    names = [f"localhost:{free_port()}", *(f"node{i}" for i in range(1, len(wanted_by_host) + num_missing))]

    def try_to_meet(number, wanted):
        try:
            return hosts.meet(hosts.Host(number, names, timeout_seconds), str(run_folder), wanted)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(try_to_meet, range(len(wanted_by_host)), wanted_by_host))


def test_hosts_with_the_same_flags_meet(small_run):
    run = run_dir.read(str(small_run))
    assert meet(small_run, [run, run, run]) == [run, run, run]


def test_unequal_flags_are_named_on_all_hosts(small_run):
    run = run_dir.read(str(small_run))
    other = copy.deepcopy(run)
    other["flags"]["batch_size"] += 1
    errors = meet(small_run, [run, run, other])
    expected = "host 2 (node2) differs from host 0: its --batch_size is 16, wanted 17; give all hosts the same flags"
    assert [expected in error for error in errors] == [True] * 3


def test_a_missing_host_is_named(small_run):
    run = run_dir.read(str(small_run))
    errors = meet(small_run, [run, run], timeout_seconds=1.0, num_missing=1)
    assert ["host 2 (node2) does not answer for 1 seconds" in error for error in errors] == [True] * 2
    host = hosts.Host(1, [f"localhost:{free_port()}", "node1"], 0.2)
    with pytest.raises(InputError, match="host 0 cannot be reached at localhost:"):
        hosts.meet(host, str(small_run), run)


def test_hosts_by_flags():
    options = SimpleNamespace(distribute="hosts", hosts=["a:7000", "b"], host_index=1)
    assert hosts.find(options, "jax") == hosts.Host(1, ["a:7000", "b"])
    without = SimpleNamespace(distribute="auto", hosts=[], host_index=0)
    assert hosts.find(without, "jax") is None
    for faulty, expected in (
        (SimpleNamespace(distribute="hosts", hosts=["a", "b"], host_index=0), "the first has no port; .* a:7000"),
        (
            SimpleNamespace(distribute="hosts", hosts=["a:7000"], host_index=1),
            "--host_index=1: --hosts names 1; .* 0…0",
        ),
        (SimpleNamespace(distribute="auto", hosts=["a:7000"], host_index=0), "need --distribute=hosts; got auto"),
    ):
        with pytest.raises(InputError, match=expected):
            hosts.find(faulty, "jax")
    alone = hosts.find(SimpleNamespace(distribute="hosts", hosts=[], host_index=0), "jax")
    assert alone.address[0] == "localhost"
    assert alone.address[1] > 0


def test_hosts_need_jax(data_dir, tmp_path):
    arguments = ("--distribute=hosts", f"--data_dir={data_dir}", f"--run_dir={tmp_path / 'run'}")
    result = run_in_process("trainers.basic_cnn", *arguments)
    assert_one_line_error(result, "--distribute=hosts needs KERAS_BACKEND=jax; this is tensorflow")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shard_count", [1, 2, 4])
def test_each_cell_is_at_the_same_place_for_any_number_of_hosts(shard_count):
    order = ShuffleOrder(num_cells=19, batch_size=8, seed=3)
    shards = [order._replace(shard_index=i, shard_count=shard_count, is_padded=True) for i in range(shard_count)]
    for step in range(2 * order.steps_per_epoch):
        step = tf.constant(step, tf.int64)
        expected = order.indices(step).numpy()
        cells = np.concatenate([shard.indices(step) for shard in shards])
        weights = np.concatenate([shard.weights(step) for shard in shards])
        np.testing.assert_array_equal(cells[: len(expected)], expected)
        np.testing.assert_array_equal(cells[len(expected) :], expected[-1])
        np.testing.assert_array_equal(weights > 0, np.arange(8) < len(expected))
        assert weights.mean() == pytest.approx(1)
