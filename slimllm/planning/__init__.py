"""From an analysis to a plan: widths that meet a budget, by rules or by hand."""
