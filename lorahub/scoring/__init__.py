"""Logits become verdicts and figures; nothing here knows a model."""
