"""One base model and many LoRA adapters in one forward pass."""
