#!/usr/bin/env python
"""Runs Beam's Python worker for a worker of Flink or Spark, which names it as its PROCESS environment.

Beam's worker pool is for one TaskManager per machine: with two it stops the wrong worker, since both give theirs the
same name. If WORKER_LOG names a file, each process notes there which of the engine's workers, WORKER, fills shards.
"""

import argparse
import os
import sys
from pathlib import Path


def note_filled_shards():
    def hook(event, arguments):
        if event == "os.rename" and str(arguments[1]).endswith(".done.json"):
            with Path(os.environ["WORKER_LOG"]).open("a") as log:
                log.write(f"{os.environ['WORKER']}\n")

    sys.addaudithook(hook)


if "WORKER_LOG" in os.environ:
    note_filled_shards()

if __name__ == "__main__":
    import grpc
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
    from apache_beam.runners.worker.sdk_worker import SdkHarness

    parser = argparse.ArgumentParser()
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    arguments, _ = parser.parse_known_args()
    with grpc.insecure_channel(arguments.provision_endpoint) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = service.GetProvisionInfo(request, metadata=[("worker_id", arguments.id)]).info
    SdkHarness(info.control_endpoint.url, worker_id=arguments.id).run()
