import io

import pytest

from pipeline.records import example, parsing, tfrecord

RECORDS = [b"", b"a", b"cell" * 5000]


def framed():
    framed = ((*tfrecord.frame(record), record) for record in RECORDS)
    return b"".join(header + record + footer for header, footer, record in framed)


def test_tensorflow_reads_it_and_we_read_tensorflows(tmp_path):
    import tensorflow as tf

    path = tmp_path / "ours"
    path.write_bytes(framed())
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(path))] == RECORDS
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in RECORDS:
            writer.write(record)
    assert (tmp_path / "theirs").read_bytes() == framed()


def test_a_record_in_parts_has_the_same_frame():
    assert tfrecord.frame(b"ce", b"", b"lls") == tfrecord.frame(b"cells")


def test_examples_are_protocol_buffers_own_bytes():
    from tensorflow_datasets.proto import tf_example_generated_pb2

    for num_bytes in (0, 1, 100, 127, 128, 129, 16_200, 16_384, 3 * 125 * 125, 1 << 21):
        for label, filename, patient in ((0, "Uninfected/ä b.png", ""), (1, "x" * 300, "C1"), (200, "", "C" * 130)):
            theirs = tf_example_generated_pb2.Example()
            theirs.features.feature["image"].bytes_list.value.append(b"\7" * num_bytes)
            theirs.features.feature["label"].int64_list.value.append(label)
            theirs.features.feature["filename"].bytes_list.value.append(filename.encode())
            theirs.features.feature["patient_id"].bytes_list.value.append(patient.encode())
            ours = example.encode(b"\7" * num_bytes, label, filename, patient)
            assert b"".join(ours) == theirs.SerializeToString(deterministic=True)
            assert parsing.parse(b"".join(ours)) == (b"\7" * num_bytes, label, filename, patient)


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
