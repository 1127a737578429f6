"""Changing models: pruning layer by layer, masking, fine-tuning."""
