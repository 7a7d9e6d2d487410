"""Pages of the labelling half: shells that read the input, make one call and answer."""
