"""Raw cells in, TFRecord shards out: source, plan, Beam job, manifest."""
