"""Images that lie on disk as raw pixels, as an image feature: TFDS shows pictures of those only."""

from typing import Any

import tensorflow_datasets as tfds


class RawImage(tfds.features.Image):
    """An image in memory, stored and described (in features.json) as TFDS's own feature for tensors.

    Args:
      stored: the feature on disk, uint8 RGB [size, size, 3].
    """

    def __init__(self, stored: tfds.features.Tensor) -> None:
        super().__init__(shape=stored.shape)
        self._stored = stored

    def get_serialized_info(self) -> Any:
        return self._stored.get_serialized_info()

    def encode_example(self, example_data: Any) -> Any:
        return self._stored.encode_example(example_data)

    def decode_example(self, example: Any) -> Any:
        return self._stored.decode_example(example)

    def decode_example_np(self, example: Any) -> Any:
        return self._stored.decode_example_np(example)

    def to_proto(self) -> Any:
        return self._stored.to_proto()
