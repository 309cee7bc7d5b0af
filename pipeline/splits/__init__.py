"""Which patient, and so which cell, goes into which split."""
