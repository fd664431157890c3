"""Post-training: seed prompts, losses, budgets and the loop that makes its own rollouts."""
