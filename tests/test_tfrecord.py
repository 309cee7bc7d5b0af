import io

import pytest

from pipeline import tfrecord

RECORDS = [b"", b"a", b"cell" * 5000]


def framed():
    return b"".join(part for record in RECORDS for part in tfrecord.frame(record))


def test_tensorflow_reads_it_and_we_read_tensorflows(tmp_path):
    import tensorflow as tf

    path = tmp_path / "ours"
    path.write_bytes(framed())
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(path))] == RECORDS
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in RECORDS:
            writer.write(record)
    assert (tmp_path / "theirs").read_bytes() == framed()


def test_offsets_point_at_headers():
    content = framed()
    offsets, records = zip(*tfrecord.read_records(io.BytesIO(content)), strict=True)
    assert list(records) == RECORDS
    for offset, record in zip(offsets, records, strict=True):
        assert content[offset + tfrecord.HEADER_BYTES :].startswith(record)


def test_every_flipped_byte_is_found():
    content = framed()
    for position in [*range(60), 10_000, len(content) - 1]:
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        with pytest.raises(tfrecord.DamagedRecord, match="record at byte"):
            list(tfrecord.read_records(io.BytesIO(damaged)))


@pytest.mark.parametrize("cut", [1, 4, 15, 16, 100])
def test_a_cut_off_file_is_found(cut):
    with pytest.raises(tfrecord.DamagedRecord, match="cut off"):
        list(tfrecord.read_records(io.BytesIO(framed()[:-cut])))
