"""How units are ranked and readers repaired: a method is one file and one row of the table."""
