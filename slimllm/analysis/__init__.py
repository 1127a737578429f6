"""The analysis of dense layers, one after the other, and its storage."""
