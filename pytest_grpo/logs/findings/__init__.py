"""What can be found in one run: trends and shifts by blocks of steps, stalls, and the shares of the step's parts."""
