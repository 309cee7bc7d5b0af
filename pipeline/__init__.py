"""Raw cells in, TFRecord shards out: source, plan, Beam job, manifest."""

import os

MAX_PIXELS = 1 << 24
"""Larger pictures are rejected: a cell crop has some 20,000 pixels."""

# Read once, when OpenCV and etils are first used, whichever module does so first.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # a bad file is reported by its rejection
os.environ.setdefault("EPATH_USE_TF", "false")  # TensorFlow takes seconds to import and knows no s3://
