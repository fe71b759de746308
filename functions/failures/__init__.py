"""The zip function that turns each dead letter into a FAILED row that can be sent again."""
