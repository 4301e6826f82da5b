"""TRL's ``GRPOTrainer`` as a system that the phases measure."""
