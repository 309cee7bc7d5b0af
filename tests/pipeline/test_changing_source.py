"""A source that changes while the job runs, and files in it that are no files."""

import os
import socket
import zipfile

import pytest
from conftest import listing_of, png, prepare, run_job, zip_folder

from pipeline.errors import InputError
from pipeline.job import plan
from pipeline.source.files import MAX_ENCODED_BYTES, UnreadableImage, read_image_file

CHANGED = "has changed since it was listed"


def replaced(path):
    """By another image of the same size."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def a_fifo(path):
    path.unlink()
    os.mkfifo(path)


def a_socket(path):
    path.unlink()
    os.chdir(path.parent)  # its whole path would be too long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


def a_link_to_a_device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


CHANGES = [
    (replaced, CHANGED),
    (lambda path: path.write_bytes(path.read_bytes() + b"more"), CHANGED),
    (lambda path: os.truncate(path, 3 << 30), CHANGED),
    (a_fifo, "not a regular file"),
    (a_socket, "not a regular file"),
    (a_link_to_a_device, "not a regular file"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES)
def test_a_file_that_changes_after_the_listing_is_rejected_by_name(change, reason, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listing = listing_of(source)
    cell = listing.cells[7]
    change(source / cell.filename)
    options = {"source": str(source), "data_dir": str(tmp_path / "data"), "pipeline_options": ["--runner=FnApiRunner"]}
    with pytest.raises(InputError, match=rf"1 of 36 images cannot be used, .*{cell.filename} \({reason}\)"):
        run_job(listing, plan.Settings(image_size_px=16), **options)
    result = run_job(listing, plan.Settings(image_size_px=16), max_rejected_fraction=0.1, **options)
    assert result.manifest["rejected"] == [{"filename": cell.filename, "reason": reason}]


def test_an_archive_that_changes_after_the_listing_stops_the_job(source, tmp_path):
    archive = zip_folder(source, tmp_path / "cells.zip")
    listing = listing_of(archive)
    replaced(archive)
    with pytest.raises(InputError, match=rf"could not be filled: {archive} {CHANGED}; fix that, then the same"):
        run_job(listing, plan.Settings(), source=str(archive), data_dir=str(tmp_path / "data"))
    assert prepare(archive, tmp_path / "data").num_filled == 36


def test_a_file_that_changes_during_the_listing_is_named(source, monkeypatch):
    from pipeline.source import archive

    name = "Uninfected/C3P3thinF_IMG_20150619_114756a_cell_0.png"
    walk = archive.FolderSource.walk

    def walk_then_change(opened):
        files = walk(opened)
        a_fifo(source / name)
        return files

    monkeypatch.setattr(archive.FolderSource, "walk", walk_then_change)
    with pytest.raises(InputError, match=f"cannot be read: {name}: not a regular file"):
        listing_of(source)


def test_what_is_no_file_or_too_large_is_rejected_before_a_byte_is_read(source, monkeypatch):
    folder = source / "Uninfected"
    (folder / "C1_large.png").touch()
    os.truncate(folder / "C1_large.png", 3 << 30)
    os.mkfifo(source / "fifo")
    (folder / "C1_link.png").symlink_to(source / "fifo")
    listing = listing_of(source)
    assert len(listing.cells) == 36
    assert [tuple(item) for item in listing.rejected] == [
        ("Uninfected/C1_large.png", f"{3 << 30} bytes; expected at most {MAX_ENCODED_BYTES}"),
        ("Uninfected/C1_link.png", "not a regular file"),
    ]


def test_too_few_cells_are_told_with_the_files_that_were_rejected(tmp_path):
    archive = tmp_path / "twice.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("Uninfected/C2_a.png", png())
        out.writestr("Parasitized/C1_a.png", png())
        with pytest.warns(UserWarning, match="Duplicate name"):
            out.writestr("Parasitized/C1_a.png", png())
    expected = r"twice\.zip, 1 file rejected, such as Parasitized/C1_a\.png \(the archive has this name .*: {}"
    with pytest.raises(InputError, match=expected.format("got 2 cells, too few")):
        prepare(archive, tmp_path / "data", config="by_cell")
    with pytest.raises(InputError, match=expected.format("too few patients")):
        prepare(archive, tmp_path / "data")


def test_image_files_are_read_only_if_they_are_regular_and_small(tmp_path):
    path = tmp_path / "cell.png"
    path.write_bytes(png())
    assert read_image_file(str(path)) == png()
    os.truncate(path, MAX_ENCODED_BYTES + 1)
    with pytest.raises(UnreadableImage, match=f"{MAX_ENCODED_BYTES + 1} bytes; expected at most"):
        read_image_file(str(path))
    for device in ("/dev/zero", "/dev/tty"):
        with pytest.raises(UnreadableImage, match="not a regular file"):
            read_image_file(device)
