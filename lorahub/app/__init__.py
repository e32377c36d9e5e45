"""The page: adapters side by side on one claim, and the runs that made them."""
