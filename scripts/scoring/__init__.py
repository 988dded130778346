"""From rows to probabilities: the code that travels in a package, and what runs it by the million."""
