"""Numbers about predictions. Pure functions of arrays."""
