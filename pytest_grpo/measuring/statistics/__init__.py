"""The tests that decide: of a median, of means, of an order effect; and the error that a session may spend on them."""
