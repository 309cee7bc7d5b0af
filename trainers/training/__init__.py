"""From a trainer's flags to a finished run: `main` → `train` → `setup` → `fit`; the other modules are their parts."""
