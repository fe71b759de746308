"""The zip function that takes and shows jobs over HTTP."""
