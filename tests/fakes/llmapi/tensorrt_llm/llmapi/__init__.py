"""The groups of arguments, and how a YAML file becomes them."""
