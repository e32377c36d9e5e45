"""`lorahub ranks`: quality against LoRA rank."""
