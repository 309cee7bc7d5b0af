"""Training, evaluation and use of models: from TFRecord shards to a report and to predictions."""
