"""The zip function that turns a message its queue gave up into a FAILED row that can be sent again."""
