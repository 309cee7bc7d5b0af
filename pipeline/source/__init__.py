"""Where cells come from: a folder, a zip archive, or the NLM's download."""
