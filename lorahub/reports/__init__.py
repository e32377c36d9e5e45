"""Records, comparisons and other results as text, tables, plots and cards."""
