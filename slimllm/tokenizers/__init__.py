"""Other people's tokenizers: how they begin texts, and how they are used within limits."""
