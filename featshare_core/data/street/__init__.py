"""The rooms of the rendered street: what it holds, how light falls on it, how it is painted."""
