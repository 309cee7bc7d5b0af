import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.errors import InputError
from pipeline.source import download

CONTENT = bytes(range(256)) * 20_000


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT, with ranges unless told otherwise, and breaks off where it is told to."""

    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        start = 0
        if server.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        stop = server.breaks.pop(0) if server.breaks else len(server.content)
        self.wfile.write(server.content[start:stop])
        if stop < len(server.content):
            self.connection.close()

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.content, http.breaks, http.requests, http.ranges = CONTENT, [], [], True
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield http
        http.shutdown()


def archive(server, **changes):
    what = {"num_bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest(), **changes}
    return download.Archive(f"http://127.0.0.1:{server.server_port}/cells.zip", **what)


def test_downloads_once(server, tmp_path):
    path = download.fetch_archive(str(tmp_path / "cache"), archive(server))
    assert path.read_bytes() == CONTENT
    assert download.fetch_archive(str(tmp_path / "cache"), archive(server)) == path
    assert server.requests == [None]
    assert [item.name for item in path.parent.iterdir()] == ["cells.zip"]


def test_the_next_call_continues(server, tmp_path):
    server.breaks = [1_000_000]
    with pytest.raises(InputError, match=r"broke off at 1,000,000 of 5,120,000 bytes .* the same command continues"):
        download.fetch_archive(str(tmp_path), archive(server))
    assert download.fetch_archive(str(tmp_path), archive(server)).read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=1000000-"


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    server.ranges = False
    (tmp_path / "cells.zip.partial").write_bytes(b"x" * 1000)
    assert download.fetch_archive(str(tmp_path), archive(server)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"sha256": "0" * 64}, "with 0000"), ({"num_bytes": len(CONTENT) - 1}, "gave 5,120,000 bytes .* 5,119,999 with")],
)
def test_another_file_is_removed(server, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        download.fetch_archive(str(tmp_path), archive(server, **changes))
    assert list(tmp_path.iterdir()) == []


def test_a_partial_file_that_is_too_long_is_dropped(server, tmp_path):
    (tmp_path / "cells.zip.partial").write_bytes(CONTENT + b"x")
    assert download.fetch_archive(str(tmp_path), archive(server)).read_bytes() == CONTENT


def test_a_damaged_cache_is_replaced(server, tmp_path):
    (tmp_path / "cells.zip").write_bytes(CONTENT[:-1] + b"x")
    assert download.fetch_archive(str(tmp_path), archive(server)).read_bytes() == CONTENT


def test_no_server(tmp_path):
    gone = download.Archive("http://127.0.0.1:9/cells.zip", 10, "0" * 64)
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/cells.zip broke off at 0 of 10 bytes .*refused"):
        download.fetch_archive(str(tmp_path), gone)


def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give another --download_dir"):
        download.fetch_archive(str(tmp_path / "file"), archive(server))
