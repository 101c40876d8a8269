"""The control of one pipeline: `engine` decides, `loop` carries it out, `audit` records and replays it."""
