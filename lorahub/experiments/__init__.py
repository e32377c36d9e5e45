"""Experiments: questions that need several runs, each with a run, a result and a report module."""
