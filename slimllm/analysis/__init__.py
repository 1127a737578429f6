"""One dense layer after the other, scored; and how analyses are stored."""
