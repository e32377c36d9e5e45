"""`lorahub sweep`: hyperparameter search with Optuna."""
