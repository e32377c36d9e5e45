"""`lorahub estimate`: memory and time of a training before it runs."""
