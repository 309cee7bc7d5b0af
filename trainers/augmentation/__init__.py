"""Changes to training cells: how far (`ranges`), the random numbers (`params`), applied on the device (`apply`)."""
