"""Where cells come from: a folder, a zip archive, a table of either, or the NLM's download."""
