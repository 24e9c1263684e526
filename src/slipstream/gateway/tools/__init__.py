"""Tools: what a model is told of them, how it is held to call one, and its calls read from its text."""
