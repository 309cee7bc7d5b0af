"""The malaria cells as a TFDS data set; importing this package makes `tfds.load("tfds_malaria/…")` know it."""

from tfds_malaria.tfds_malaria_dataset_builder import Builder as Builder

__version__ = "1.0.0"
