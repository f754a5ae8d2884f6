"""From rewards to an optimizer step: advantages, losses, learner."""
