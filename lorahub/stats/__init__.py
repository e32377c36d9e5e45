"""Statistics of logits and labels. No models and no files except stored predictions."""
