"""The forms of the sums over pixels: the plain one, and faster ones that are tested against it."""
