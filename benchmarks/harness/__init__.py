"""How things are measured, and the file form of the results."""
