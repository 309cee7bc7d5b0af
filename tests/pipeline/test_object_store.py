"""An S3 server on loopback: writing, continuing, verifying, and reading the source from it."""

import contextlib
import json
import subprocess
import sys
import time
import urllib.request

import boto3
import pytest
from conftest import (
    assert_one_line_error,
    data_set_digests,
    free_port,
    png,
    prepare,
    run_command,
    run_in_process,
    zip_folder,
)
from etils import epath

from pipeline.cells import Cell
from pipeline.job import fill, plan
from pipeline.records import layout
from pipeline.source.archive import open_source

SMALL = ("--image_size_px=16", "--cells_per_shard=8")
SERVER = """
import sys, time
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
moto = DomainDispatcherApplication(create_backend_app)
def application(environ, start_response):
    if environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].endswith(".slow.png"):
        time.sleep(0.25)
    return moto(environ, start_response)
run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True)
"""
FOLDER = "data/tfds_malaria/by_patient/1.0.0/"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server's log, and the environment that reaches it."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    log = tmp_path_factory.mktemp("s3") / "log"
    with (
        log.open("w") as output,
        subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stdout=output, stderr=output) as process,
    ):
        try:
            for _ in range(300):
                with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=1):
                    break
                time.sleep(0.1)
            yield (
                log,
                {
                    "AWS_ENDPOINT_URL": address,
                    "AWS_ACCESS_KEY_ID": "nobody",
                    "AWS_SECRET_ACCESS_KEY": "nothing",
                    "AWS_DEFAULT_REGION": "us-east-1",
                },
            )
        finally:
            process.kill()


@pytest.fixture
def bucket(server, monkeypatch, request):
    """An empty bucket of the test's own."""
    for name, value in server[1].items():
        monkeypatch.setenv(name, value)
    empty = boto3.resource("s3").Bucket(request.node.name.replace("_", "-")[:60])
    empty.create()
    return empty


def keys(bucket):
    return {item.key for item in bucket.objects.all()}


def preprocess(source, bucket, *flags):
    """The command within this process, and so without worker processes."""
    paths = (f"--source={source}", f"--data_dir=s3://{bucket.name}/data")
    return run_in_process("pipeline.preprocess", *paths, *SMALL, "--pipeline_options=--runner=FnApiRunner", *flags)


def test_the_same_objects_as_the_local_files(source, tmp_path, bucket, monkeypatch):
    flags = (f"--source={source}", f"--data_dir=s3://{bucket.name}/data")
    with monkeypatch.context() as fresh:
        fresh.delenv("EPATH_USE_TF")
        result = run_command("pipeline.preprocess", *flags, *SMALL)  # with worker processes
    assert result.returncode == 0, result.stderr
    bucket.download_file(FOLDER + "manifest.json", str(tmp_path / "manifest.json"))
    local = prepare(source, tmp_path / "local", image_size_px=16, cells_per_shard=8)
    for key in keys(bucket):
        path = tmp_path / "s3" / key.removeprefix("data/")
        path.parent.mkdir(parents=True, exist_ok=True)
        bucket.download_file(key, str(path))
    assert data_set_digests(tmp_path / "s3") == data_set_digests(tmp_path / "local")
    assert local.num_filled == 36
    again = preprocess(source, bucket)
    assert "already there" in again.stdout
    assert_one_line_error(preprocess(source, bucket, "--split_seed=1"), "split_seed is 42, wanted 1")


def test_verify_finds_what_was_done_to_objects(source, bucket):
    assert preprocess(source, bucket).returncode == 0
    verify = ("pipeline.verify", f"--data_dir=s3://{bucket.name}/data")
    assert run_in_process(*verify).returncode == 0
    shards = sorted(key for key in keys(bucket) if key.endswith("-of-00003"))
    damaged = bytearray(bucket.Object(shards[0]).get()["Body"].read())
    damaged[77] ^= 4
    bucket.Object(shards[0]).put(Body=bytes(damaged))
    bucket.Object(shards[1]).delete()
    bucket.Object(FOLDER + "foreign").put(Body=b"x")
    result = run_in_process(*verify)
    assert result.returncode == 1
    for key, what in ((shards[0], "sha256"), (shards[1], "is missing"), (FOLDER + "foreign", "does not belong")):
        assert any(key in line and what in line for line in result.stdout.splitlines()), result.stdout


def test_repair_replaces_corrupt_objects(source, bucket):
    assert preprocess(source, bucket).returncode == 0
    before = {item.key: item.e_tag for item in bucket.objects.all()}
    shards = sorted(key for key in before if key.endswith("-of-00003"))
    content = bucket.Object(shards[0]).get()["Body"].read()
    bucket.Object(shards[0]).put(Body=content[:-1] + b"x")
    assert "already there" in preprocess(source, bucket).stdout, "only sizes are compared"
    bucket.Object(shards[1]).delete()
    assert_one_line_error(preprocess(source, bucket), "1 corrupt file: ", "is missing", "--repair")
    result = preprocess(source, bucket, "--repair")
    assert result.returncode == 0, result.stderr
    assert {item.key: item.e_tag for item in bucket.objects.all()} == before


def test_without_its_manifest_it_is_unfinished_and_the_same_command_mends_it(source, bucket):
    assert preprocess(source, bucket).returncode == 0
    before = {item.key: item.e_tag for item in bucket.objects.all()}
    bucket.Object(FOLDER + "manifest.json").delete()
    bucket.Object(FOLDER + "foreign").put(Body=b"x")
    assert_one_line_error(run_in_process("pipeline.verify", f"--data_dir=s3://{bucket.name}/data"), "has no data set")
    result = preprocess(source, bucket)
    assert result.returncode == 0, result.stderr
    assert {item.key: item.e_tag for item in bucket.objects.all()} == before


def test_overwrite_replaces(source, bucket):
    assert preprocess(source, bucket).returncode == 0
    assert preprocess(source, bucket, "--cells_per_shard=4", "--overwrite").returncode == 0
    assert run_in_process("pipeline.verify", f"--data_dir=s3://{bucket.name}/data").returncode == 0


def test_the_source_may_lie_there(source, tmp_path, bucket):
    bucket.upload_file(str(zip_folder(source, tmp_path / "cells.zip")), "cells.zip")
    for path in source.rglob("*.png"):
        bucket.upload_file(str(path), f"cells/{path.relative_to(source).as_posix()}")
    expected = prepare(source, tmp_path / "local", image_size_px=16, cells_per_shard=8).manifest
    for path in ("cells.zip", "cells"):
        data_dir = tmp_path / "data" / path
        flags = (f"--source=s3://{bucket.name}/{path}", f"--data_dir={data_dir}")
        result = run_in_process("pipeline.preprocess", *flags, *SMALL, "--pipeline_options=--runner=FnApiRunner")
        assert result.returncode == 0, result.stderr
        digests = data_set_digests(data_dir / "tfds_malaria" / "by_patient" / "1.0.0")
        for split in expected["splits"].values():
            assert all(digests[shard["file"]] == shard["sha256"] for shard in split["shards"])


def test_cells_are_read_at_the_same_time_and_listed_together(tmp_path, bucket, server):
    contents = [png(number, height=number + 1) for number in range(200)]
    for number, content in enumerate(contents):
        bucket.put_object(Key=f"cells/Uninfected/C{number:03d}.slow.png", Body=content)
    log, _ = server
    source = open_source(f"s3://{bucket.name}/cells")
    requests = len(log.read_text().splitlines())
    files = source.walk()
    assert len(log.read_text().splitlines()) - requests <= 3
    cells = tuple(sorted(Cell(file.path, 0, "C1", file.num_bytes) for file in files))
    for number, content in ((1, contents[1] + b"grown"), (2, b"")):
        bucket.put_object(Key=f"cells/Uninfected/C{number:03d}.slow.png", Body=content)
    (tmp_path / layout.plan_name("shard")).write_text(plan.Shard("train", "shard", cells).to_json())
    folder = epath.Path(tmp_path)
    job = plan.ShardJob(f"s3://{bucket.name}/cells", "", folder, folder, plan.Settings(image_size_px=8))
    start = time.perf_counter()
    assert fill.fill_shard("shard", job, num_threads=1)[::2] == (198, 2)
    assert time.perf_counter() - start < len(cells) * 0.25 / 10
    _, _, rejected, facts = json.loads((tmp_path / layout.result_name("shard")).read_text()[64:])
    assert rejected == [[cells[number].filename, "has changed since it was listed"] for number in (1, 2)]
    assert [of_record[0] for of_record in facts] == [cells[number].filename for number in (0, *range(3, 200))]
    with pytest.raises(FileNotFoundError):
        source.read("", Cell("Uninfected/gone.png", 0, "", 3))


def test_a_zip_is_read_by_ranges_and_its_directory_once(source, tmp_path, bucket, server):
    bucket.upload_file(str(zip_folder(source, tmp_path / "cells.zip")), "cells.zip")
    log, _ = server
    before = len(log.read_text().splitlines())
    flags = (f"--source=s3://{bucket.name}/cells.zip", f"--data_dir={tmp_path / 'data'}")
    result = run_in_process("pipeline.preprocess", *flags, *SMALL, "--pipeline_options=--runner=FnApiRunner")
    assert result.returncode == 0, result.stderr
    requests = [line for line in log.read_text().splitlines()[before:] if f"GET /{bucket.name}/cells.zip" in line]
    assert all(" 206 " in line for line in requests), "never the whole archive"
    assert 36 < len(requests) <= 36 + 4, "one per cell, and its directory"


def test_no_such_bucket(source, bucket):
    result = run_in_process("pipeline.preprocess", f"--source={source}", "--data_dir=s3://nobody-made-this/x", *SMALL)
    assert_one_line_error(result, "nobody-made-this", "does not exist")
