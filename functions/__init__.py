"""Lambda entry points: thin, one folder each."""
