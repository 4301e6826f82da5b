"""How an arm is timed: samples in pairs, their statistics, the machine's conditions, the A/A control."""
