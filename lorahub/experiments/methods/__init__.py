"""`lorahub methods`: training methods on the same data."""
