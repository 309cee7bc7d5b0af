"""Shards in, batches out. Begin with `batching`; it uses the other modules."""
