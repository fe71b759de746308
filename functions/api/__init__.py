"""The zip function that takes jobs and tells of them over HTTP."""
