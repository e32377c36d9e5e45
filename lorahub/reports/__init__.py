"""A record told to people: tables, pictures and the card. Reads records only, never a model."""
