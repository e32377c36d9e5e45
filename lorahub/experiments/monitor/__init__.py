"""`lorahub evaluate --since`: a run evaluated again on new data."""
