"""`lorahub compare`: systems on the same claims."""
