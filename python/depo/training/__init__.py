"""depo-train: the loop and its parts."""
