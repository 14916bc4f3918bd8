"""How well and how fast a network does."""
