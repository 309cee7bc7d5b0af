"""What a log gets to see of long work."""

import pytest

from pipeline.terminal import progress_bar


def test_a_log_gets_one_plain_line_of_short_work_and_none_of_finished_work(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(10, "filling shards", "cells", initial=10), progress_bar(4000, "drawing", "cells") as bar:
        for _ in range(4000):
            bar.update(1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("drawing: 100% 4000/4000 [")
    assert "cells/s" in line


def test_a_log_gets_a_line_an_interval(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: seconds[0])
    with progress_bar(100, "training", "images") as bar:
        for _ in range(100):
            seconds[0] += 1.0
            bar.update(1)
    done = [line.split()[2] for line in capsys.readouterr().err.splitlines()]
    assert done == [f"{number}/100" for number in range(10, 101, 10)]
