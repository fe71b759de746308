"""The network and its inference: arrays in, arrays out. Knows no AWS."""
