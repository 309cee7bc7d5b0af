"""Changes to training cells: how far (`ranges`), which (`draws`), applied on the device (`apply`)."""
