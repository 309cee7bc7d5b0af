"""The PTransform by itself: what comes out of it, its counters, its types, and whose end its processes share."""

import apache_beam as beam
import psutil
import pytest
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.typehints.decorators import TypeCheckError
from conftest import listing_of, prepare

from pipeline.job import plan
from pipeline.job import prepare as job
from pipeline.job.beam_pipeline import FillShards
from pipeline.job.results import ShardCounts
from pipeline.records import layout, manifest

SETTINGS = {"image_size_px": 16, "cells_per_shard": 5}


@pytest.fixture
def planned(source, tmp_path):
    with job.plan(listing_of(source), plan.Settings(**SETTINGS), source=str(source), data_dir=str(tmp_path)) as planned:
        yield planned


@pytest.fixture
def pipeline():
    """Its processes have ended with it; other tests may have left some, such as multiprocessing's fork server."""
    others = psutil.Process().children()
    yield test_pipeline.TestPipeline("FnApiRunner")
    assert psutil.Process().children() == others


@pytest.mark.parametrize("num_processes", [0, 2])
def test_counts_of_every_shard_come_out(num_processes, source, planned, pipeline, tmp_path):
    (source / "Uninfected").joinpath("C3P3thinF_IMG_20150619_114756a_cell_0.png").write_bytes(b"")
    counts = pipeline | beam.Create(list(planned.num_cells)) | FillShards(planned.shard_job, num_processes)
    other = prepare(source, tmp_path / "other", max_rejected_fraction=0.1, **SETTINGS).manifest
    num_planned = planned.num_cells
    expected = [
        ShardCounts(shard["num_records"], shard["num_bytes"], num_planned[shard["file"]] - shard["num_records"], 0)
        for shard in manifest.shards(other)
    ]
    assert_that(counts, equal_to(expected))
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter().with_namespace(FillShards.__module__ + ".FillShard"))["counters"]
    totals = {counter.key.metric.name: counter.committed for counter in counters}
    assert totals == dict(zip(ShardCounts._fields, map(sum, zip(*expected, strict=True)), strict=True))
    assert totals["cells_rejected"] == 1


@pytest.mark.parametrize("num_processes", [0, 2])
def test_a_shard_that_cannot_be_filled_is_named(num_processes, planned, pipeline):
    first, *_ = names = list(planned.num_cells)
    (planned.shard_job.job_dir / layout.plan_name(first)).unlink()
    _ = pipeline | beam.Create(names) | FillShards(planned.shard_job, num_processes)
    with pytest.raises(
        Exception, match=rf"shard {first} could not be filled: \[Errno 2\] .*the same command continues"
    ):
        pipeline.run()


def test_it_takes_names_only(planned, pipeline):
    with pytest.raises(TypeCheckError, match="FillShards: expected <class 'str'>, got <class 'int'>"):
        _ = pipeline | beam.Create([1]) | FillShards(planned.shard_job)
