"""How a model is trained: `loop` makes a finished run of a task; the rest are its parts."""
