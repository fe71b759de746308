"""The network and its inference: arrays in, arrays out. Nothing here calls AWS."""
