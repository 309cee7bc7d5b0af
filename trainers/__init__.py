"""Training, evaluation: from TFRecord shards to a judged model."""

import os

# TensorFlow's C++ side tells at every start which instructions and which CUDA libraries it found.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
