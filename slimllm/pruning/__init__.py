"""Changing models: pruning layer by layer, masking and fine-tuning."""
