"""Generated images and plates with known truth, for the demo, the tests and the docs."""
