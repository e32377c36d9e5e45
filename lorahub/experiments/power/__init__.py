"""`lorahub power`: the test claims that a comparison needs."""
