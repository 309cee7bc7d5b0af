"""Shards in, batches out. `batching` is the front door; the rest stands behind it."""
