"""Texts as vectors, by whatever deployment makes them."""
