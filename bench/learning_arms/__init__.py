"""What the learning curves are drawn from: the same task, learned by this project and by TRL."""
