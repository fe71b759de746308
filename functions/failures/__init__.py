"""The failures function: what its queue gave up becomes a row that says so and can be sent again."""
