"""Where each thread's wall clock went, by named spans that cannot overlap."""
