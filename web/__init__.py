"""The page: a small local server and the modules that it serves."""
