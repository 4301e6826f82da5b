"""What is judged of a run, and what each training stack calls it in its logs."""
