"""What a prompt's points are, in numbers: as in the released models."""

NEGATIVE, POSITIVE, BOX_START, BOX_END, PADDING = 0, 1, 2, 3, -1
