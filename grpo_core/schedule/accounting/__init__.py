"""What a run says about its wall clock and its tokens."""
