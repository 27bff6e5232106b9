"""Faster forms of hot functions. The plain form of each stays, as its fallback and its oracle."""
