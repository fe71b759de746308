"""The zip function that scores a mask against its ground truth."""
