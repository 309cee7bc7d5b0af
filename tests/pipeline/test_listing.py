import os
import random
import struct
import tracemalloc
import zipfile
from contextlib import suppress

import pytest
from conftest import listing_of, png, write_source, zip_folder
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cells import ZipEntry
from pipeline.errors import InputError
from pipeline.job.plan import Settings, plan_shards
from pipeline.source.archive import ZipSource, normal_path, open_source
from pipeline.source.files import MAX_ENCODED_BYTES, File, Files, UnreadableImage


def filenames(listing):
    return [cell.filename for cell in listing.cells]


def test_folder_and_zip_list_alike_however_deep(source, tmp_path):
    by_folder = listing_of(source)
    flat = zip_folder(source, tmp_path / "flat.zip")
    nested = zip_folder(source, tmp_path / "nested.zip", prefix="a/cell_images/", compression=zipfile.ZIP_DEFLATED)
    assert filenames(by_folder) == sorted(filenames(by_folder))
    assert len(by_folder.cells) == 36
    assert by_folder.cells[0][:3] == ("Parasitized/C1P1thinF_IMG_20150619_114756a_cell_0.png", 1, "C1")
    assert by_folder.cells[-1].label == 0
    for archive in (flat, nested):
        by_zip = listing_of(archive)
        assert [cell[:4] for cell in by_zip.cells] == [cell[:4] for cell in by_folder.cells]
        assert by_zip.fingerprint == by_folder.fingerprint
        zip_source, folder_source = open_source(str(archive)), open_source(str(source))
        for zipped, cell in list(zip(by_zip.cells, by_folder.cells, strict=True))[::7]:
            assert zip_source.read(by_zip.cells.root, zipped) == folder_source.read(by_folder.cells.root, cell)


def test_what_is_no_image_by_name_is_skipped_and_counted(source, tmp_path):
    (source / "Parasitized" / "Thumbs.db").write_bytes(b"x")
    (source / "Uninfected" / ".DS_Store").write_bytes(b"x")
    (source / "Uninfected" / "._C1.png").write_bytes(b"x")
    (source / "readme.png").write_bytes(b"x")
    (source / "__MACOSX" / "Parasitized").mkdir(parents=True)
    (source / "__MACOSX" / "Uninfected").mkdir(parents=True)
    (source / "__MACOSX" / "Parasitized" / "C1.png").write_bytes(b"x")
    by_folder, by_zip = listing_of(source), listing_of(zip_folder(source, tmp_path / "cells.zip"))
    assert len(by_folder.cells) == len(by_zip.cells) == 36
    assert by_zip.skipped == {"not an image by name": 4, "outside of the class folders": 1}
    assert by_folder.skipped["outside of the class folders"] == 1
    assert by_folder.skipped["not an image by name"] >= 3


def test_the_topmost_class_folders_count(source):
    write_source(source / "cell_images", num_patients=3)
    assert len(listing_of(source).cells) == 36


def test_other_class_folders(tmp_path):
    folder = write_source(tmp_path / "mine", class_folders=("healthy", "infected"))
    listing = listing_of(folder, class_folders=("healthy", "infected"))
    assert {(cell.filename.split("/")[0], cell.label) for cell in listing.cells} == {("healthy", 0), ("infected", 1)}


def test_fingerprint_tells_names_and_sizes_apart(source):
    before = listing_of(source).fingerprint
    path = source / "Uninfected" / "C3P3thinF_IMG_20150619_114756a_cell_0.png"
    path.write_bytes(path.read_bytes() + b"x")
    other_size = listing_of(source).fingerprint
    path.rename(path.with_name("C3P3thinF_IMG_20150619_114756a_cell_10.png"))
    assert len({before, other_size, listing_of(source).fingerprint}) == 3


def test_links_out_of_the_folder_are_rejected(source, tmp_path):
    outside = tmp_path / "outside.png"
    outside.write_bytes(png())
    (source / "Uninfected" / "C1_out.png").symlink_to(outside)
    (source / "Uninfected" / "C1_gone.png").symlink_to(source / "nowhere.png")
    inside = source / "Uninfected" / "C1_in.png"
    inside.symlink_to(source / "Uninfected" / "C1P1thinF_IMG_20150619_114756a_cell_1.png")
    listing = listing_of(source)
    assert [item.reason for item in listing.rejected] == [
        "broken symbolic link",
        "symbolic link out of the source's folder",
    ]
    assert "Uninfected/C1_in.png" in filenames(listing)


def test_archives_of_other_systems(source, tmp_path):
    expected = [cell[:4] for cell in listing_of(source).cells]
    for name, form in (("dots.zip", "./{}"), ("windows.zip", "cells\\{}"), ("slashes.zip", "cells//{}")):
        with zipfile.ZipFile(tmp_path / name, "w") as out:
            for path in sorted(source.rglob("*.png")):
                inside = path.relative_to(source).as_posix()
                out.writestr(form.format(inside.replace("/", "\\") if "windows" in name else inside), path.read_bytes())
        assert [cell[:4] for cell in listing_of(tmp_path / name).cells] == expected, name


def test_a_class_folder_within_a_class_folder_is_rejected(source):
    (source / "Uninfected" / "Parasitized").mkdir()
    (source / "Uninfected" / "Parasitized" / "C1_a.png").write_bytes(png())
    listing = listing_of(source)
    assert [tuple(item) for item in listing.rejected] == [
        ("Uninfected/Parasitized/C1_a.png", "lies in a class folder within a class folder")
    ]


def test_links_to_class_folders_are_named(source, tmp_path):
    (tmp_path / "links").mkdir()
    for name in ("Uninfected", "Parasitized"):
        (tmp_path / "links" / name).symlink_to(source / name)
    named = r"\(2 files are rejected, such as Parasitized: symbolic link to a folder, which is not followed\)"
    with pytest.raises(InputError, match=f"has no class folders {named}"):
        listing_of(tmp_path / "links")


@pytest.mark.parametrize("place", ["elsewhere", "cell_images/inside"])
def test_cells_behind_a_link_to_a_folder_are_not_left_out_without_a_word(place, source, tmp_path):
    (tmp_path / place).mkdir()
    (source / "Uninfected" / "more").symlink_to(tmp_path / place)
    (source / "docs").symlink_to(tmp_path / place)
    listing = listing_of(source)
    assert [tuple(item) for item in listing.rejected] == [
        ("Uninfected/more", "symbolic link to a folder, which is not followed")
    ]
    assert listing.skipped == {"not an image by name": 1}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda source, out: out.write(zip_folder(source, source.parent / "in.zip"), "in.zip"),
            "it holds in.zip",
        ),
        (lambda _, out: out.writestr("C1_a.png", png()), "it holds C1_a.png"),
        (lambda _, out: out.writestr("good/C1_a.png", png()), "it holds good"),
        (
            lambda _, out: out.writestr("Uninfected/C1_a.png", png(), zipfile.ZIP_BZIP2),
            "1 files are rejected, such as Uninfected/C1_a.png: compressed by method 12; expected stored or deflated",
        ),
    ],
)
def test_what_is_there_instead_of_class_folders_is_named(make, expected, source, tmp_path):
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as out:
        make(source, out)
    with pytest.raises(InputError, match=expected):
        listing_of(tmp_path / "cells.zip")


def test_an_archive_that_lost_its_beginning(source, tmp_path):
    archive = zip_folder(source, tmp_path / "cells.zip")
    archive.write_bytes(archive.read_bytes()[5:])
    with pytest.raises(InputError, match=r"lost its beginning|is cut off"):
        listing_of(archive)


def test_encrypted_entries_are_rejected(source, tmp_path):
    archive = zip_folder(source, tmp_path / "cells.zip")
    content = bytearray(archive.read_bytes())
    directory = content.index(b"PK\x01\x02", content.index(b"Uninfected/C9"))
    content[directory + 8] |= 1
    archive.write_bytes(content)
    listing = listing_of(archive)
    assert (len(listing.cells), [item.reason for item in listing.rejected]) == (35, ["encrypted"])


def test_one_entry_listed_with_and_without_a_fault(source, tmp_path, monkeypatch):
    files = ZipSource(zip_folder(source, tmp_path / "cells.zip")).walk()
    twice = Files()
    for file in [*(file._replace(fault="encrypted") for file in files), *files]:
        twice.append(file)
    monkeypatch.setattr(ZipSource, "walk", lambda self: twice)
    listing = listing_of(tmp_path / "cells.zip")
    assert len(listing.cells) == 36
    assert {item.reason for item in listing.rejected} == {"encrypted"}


def test_a_source_that_is_neither_file_nor_folder(tmp_path):
    os.mkfifo(tmp_path / "cells.zip")
    with pytest.raises(
        InputError, match=r"cells.zip does not exist or is not a regular file; expected a folder, a .zip file"
    ):
        open_source(str(tmp_path / "cells.zip"))


def test_hostile_names_are_rejected(source, tmp_path):
    archive = zip_folder(source, tmp_path / "cells.zip")
    with zipfile.ZipFile(archive, "a") as out:
        for name in ("Uninfected/../../C1.png", "/Uninfected/C1.png", f"Uninfected/{'C' * 10_000}.png"):
            out.writestr(name, png())
        with pytest.warns(UserWarning, match="Duplicate name"):
            out.writestr(out.namelist()[0], png())
    listing = listing_of(archive)
    assert len(listing.cells) == 36
    reasons = sorted(item.reason for item in listing.rejected)
    assert len(reasons) == 4
    assert [reason.split(";")[0] for reason in reasons] == [
        "absolute path or '..' in the archive",
        "absolute path or '..' in the archive",
        "name of 10015 characters",
        "the archive has this name more than once",
    ]
    assert max(len(item.filename) for item in listing.rejected) < 300


@given(st.lists(st.sampled_from(["..", ".", "/", "\\", "C:", "cells", "C1_a.png", ""])).map("".join) | st.text())
def test_archive_names_stay_within_the_archive(name):
    path = normal_path(name)
    if path is None:
        assert ".." in name or name.startswith("/") or ":" in name
    else:
        assert "\\" not in path
        assert os.path.normpath(f"/top/{path}").startswith("/top")
        assert ".." not in path.split("/")
        assert normal_path(path) == path
        assert normal_path(name.replace("/", "\\").lstrip("\\")) == normal_path(name.lstrip("/\\"))


def test_names_that_are_no_utf8_are_rejected(source):
    (source / "Uninfected" / os.fsdecode(b"C1_\xff.png")).write_bytes(png())
    assert [item.reason for item in listing_of(source).rejected] == ["name is not UTF-8"]


def test_a_long_extra_field_of_a_zip_entry(source, tmp_path):
    archive, entry = zip_folder(source, tmp_path / "cells.zip"), zipfile.ZipInfo("Uninfected/C1_extra.png")
    entry.extra = struct.pack("<HH", 0x9999, 6000) + bytes(6000)
    with zipfile.ZipFile(archive, "a") as out:
        out.writestr(entry, content := png())
    (cell,) = (cell for cell in listing_of(archive).cells if cell.filename == entry.filename)
    assert open_source(str(archive)).read("", cell) == content


def test_a_damaged_zip_entry_is_noticed(source, tmp_path):
    archive = zip_folder(source, tmp_path / "cells.zip")
    cell = listing_of(archive).cells[5]._replace(modified_ns=0)
    content = bytearray(archive.read_bytes())
    content[cell.zip_entry.offset + 200] ^= 1
    archive.write_bytes(content)
    os.utime(archive, ns=(0, 0))
    with pytest.raises(UnreadableImage, match="CRC-32"):
        open_source(str(archive)).read("", cell)
    content[cell.zip_entry.offset] ^= 1
    archive.write_bytes(content)
    os.utime(archive, ns=(0, 0))
    with pytest.raises(UnreadableImage, match="no file header"):
        open_source(str(archive)).read("", cell)


def test_a_damaged_name_in_the_directory_moves_no_cell_to_another_patient(source, tmp_path):
    archive = zip_folder(source, tmp_path / "cells.zip")
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"Uninfected/C3P3") + len("Uninfected/C")] ^= 1  # C2 has cells of this label, too
    archive.write_bytes(bytes(content))
    (moved,) = (cell for cell in listing_of(archive).cells if "/C2P3" in cell.filename)
    with pytest.raises(UnreadableImage, match="its directory has another name for it"):
        open_source(str(archive)).read("", moved)


def test_flipped_bits_in_an_archive_change_no_cell_without_a_word(source, tmp_path, random_seed):
    archive = zip_folder(source, tmp_path / "cells.zip", compression=zipfile.ZIP_DEFLATED)
    intact, draw = archive.read_bytes(), random.Random(random_seed)
    directory = intact.index(b"PK\1\2")
    for number in range(200):
        content = bytearray(intact)
        content[draw.randrange(*((directory, len(intact)) if number % 2 else (0, directory)))] ^= 1 << draw.randrange(8)
        archive.write_bytes(bytes(content))
        try:
            cells = listing_of(archive).cells
        except InputError:
            continue
        for cell in cells:
            with suppress(UnreadableImage):
                assert open_source(str(archive)).read("", cell) == (source / cell.filename).read_bytes()


def test_a_zip_bomb_takes_no_memory(source, tmp_path):
    archive = zip_folder(source, tmp_path / "cells.zip", compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as out:
        out.writestr("Uninfected/C1_bomb.png", bytes(MAX_ENCODED_BYTES + 1))
    listed = listing_of(archive)
    assert listed.rejected == [("Uninfected/C1_bomb.png", f"{MAX_ENCODED_BYTES + 1} bytes; expected at most 67108864")]
    bomb = next(file for file in open_source(str(archive)).walk() if "bomb" in file.path)
    cell = listed.cells[0]._replace(zip_entry=bomb.zip_entry)  # as if its directory lied about the size
    with pytest.raises(UnreadableImage, match="more than"):
        open_source(str(archive)).read("", cell)


def test_files_come_back_as_they_were():
    year_2400 = 13_569_465_600_123_456_789  # more nanoseconds than 64 bits with a sign hold
    given_files = [
        File("U/b.png", 2**64 - 1, ZipEntry(0, 2**64 - 1, 99, 2**32 - 1, 2**32 - 2), "encrypted", 0),
        File("U/a.png", 0, None, None, year_2400),
        File("U/a.png", 0, None, None, -1),
        File("é", 1),
    ]
    files = Files()
    for file in given_files:
        files.append(file)
    assert list(files) == given_files


def test_listing_and_planning_take_little_memory_per_cell(tmp_path):
    num_cells, archive = 20_000, tmp_path / "cells.zip"
    with zipfile.ZipFile(archive, "w") as cells:
        for i in range(num_cells):
            patient = i // 138  # as in the NLM's archive
            folder = "Parasitized" if i % 2 and patient % 4 else "Uninfected"
            name = f"C{patient}P{patient % 90}thinF_IMG_20150619_{i:07d}a_cell_{i % 200}.png"
            cells.writestr(zipfile.ZipInfo(f"{folder}/{name}"), name)
    listing_of(archive)  # imports and caches
    tracemalloc.start()
    try:
        listing = listing_of(archive)
        num_planned = sum(len(shard.cells) for shard in plan_shards(listing, Settings(), "cells"))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_planned == num_cells
    assert peak_bytes < 400 * num_cells
