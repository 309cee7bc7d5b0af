"""TFRecord framing and Examples: equal to TensorFlow's and protobuf's own bytes, and every damage is found."""

import io

import cv2
import numpy as np
import pytest
from conftest import png
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import example

RECORDS = [b"", b"a", b"cell" * 5000]


def framed(records):
    parts = ((*example.frame(record), record) for record in records)
    return b"".join(header + record + footer for header, footer, record in parts)


def read(content):
    return [record for _, record in example.read_records(io.BytesIO(content))]


def test_tensorflow_reads_it_and_we_read_tensorflows(tmp_path):
    import tensorflow as tf

    path = tmp_path / "ours"
    path.write_bytes(framed(RECORDS))
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(path))] == RECORDS
    with tf.io.TFRecordWriter(str(tmp_path / "theirs")) as writer:
        for record in RECORDS:
            writer.write(record)
    assert (tmp_path / "theirs").read_bytes() == framed(RECORDS)


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_framed_records_are_read_again_from_a_stream_and_by_offset(records):
    content = framed(records)
    offsets = [offset for offset, _ in example.read_records(io.BytesIO(content))]
    assert read(content) == records
    assert [example.read_at(content, offset) for offset in offsets] == records


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=3), st.data())
def test_a_flipped_bit_or_a_cut_is_found(records, data):
    content = bytearray(framed(records))
    position = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(example.CorruptRecord, match=r"record [0-2] at byte"):
        read(
            content[:position]
            + bytes([content[position] ^ 1 << data.draw(st.integers(0, 7))])
            + content[position + 1 :]
        )
    last = len(content) - len(records[-1]) - example.HEADER_BYTES - example.FOOTER_BYTES
    with pytest.raises(example.CorruptRecord, match="cut off"):
        read(content[: data.draw(st.integers(last + 1, len(content) - 1))])
    with pytest.raises(example.CorruptRecord, match="record at byte"):
        example.read_at(bytes(content[:-1]), last)


@given(st.binary(max_size=20_000), st.integers(0, 300), st.text(max_size=200), st.text(max_size=200))
def test_examples_are_protocol_buffers_own_bytes(stored, label, filename, patient):
    from tensorflow.train import Example

    theirs = Example()
    theirs.features.feature["image"].bytes_list.value.append(stored)
    theirs.features.feature["label"].int64_list.value.append(label)
    theirs.features.feature["filename"].bytes_list.value.append(filename.encode())
    theirs.features.feature["patient_id"].bytes_list.value.append(patient.encode())
    record, offset = example.encode(stored, label, filename, patient)
    assert record == theirs.SerializeToString(deterministic=True)
    assert example.parse(record) == (stored, label, filename, patient)
    assert record[offset : offset + len(stored)] == stored


@given(st.binary(max_size=100))
def test_what_is_no_record_of_a_cell_is_a_value_error(content):
    with pytest.raises(ValueError, match="no record of a cell"):
        example.parse(content)


def test_stored_pngs_are_decoded_as_opencv_does():
    stored = np.frombuffer(png(3, 125, 125), np.uint8)
    np.testing.assert_array_equal(example.decode_png(stored), cv2.imdecode(stored, cv2.IMREAD_COLOR_RGB))


@pytest.mark.parametrize("stored", [b"", bytes(100), png()[:60], png(channels=1), png(width=4097)])
def test_what_is_no_stored_png_is_a_value_error(stored):
    with pytest.raises(ValueError, match="is no PNG"):
        example.decode_png(np.frombuffer(stored, np.uint8))
