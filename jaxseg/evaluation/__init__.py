"""Scores of folders of label maps, from Python; ``jaxseg evaluate`` is the same from a shell."""
