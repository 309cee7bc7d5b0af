"""An S3 server on loopback: writing, continuing, verifying, and reading the source from it."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request

import boto3
import pytest
from conftest import assert_one_line_error, data_set_digests, prepare, run_command, run_in_process, zip_folder

SMALL = ("--image_size_px=16", "--cells_per_shard=8")
FOLDER = "data/tfds_malaria/by_patient/1.0.0/"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The environment that reaches the server."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    command = [sys.executable, "-c", "from moto.server import main; main()", "-p", str(port)]
    with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            for _ in range(300):
                with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=1):
                    break
                time.sleep(0.1)
            yield {
                "AWS_ENDPOINT_URL": address,
                "AWS_ACCESS_KEY_ID": "nobody",
                "AWS_SECRET_ACCESS_KEY": "nothing",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
        finally:
            process.kill()


@pytest.fixture
def bucket(server, monkeypatch, request):
    """An empty bucket of the test's own."""
    for name, value in server.items():
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
        result = run_in_process("pipeline.preprocess", *flags, *SMALL)
        assert result.returncode == 0, result.stderr
        digests = data_set_digests(data_dir / "tfds_malaria" / "by_patient" / "1.0.0")
        for split in expected["splits"].values():
            assert all(digests[shard["file"]] == shard["sha256"] for shard in split["shards"])


def test_no_such_bucket(source, bucket):
    result = run_in_process("pipeline.preprocess", f"--source={source}", "--data_dir=s3://nobody-made-this/x", *SMALL)
    assert_one_line_error(result, "nobody-made-this", "does not exist")
