"""Parts of a run as Ray actors: rollout workers, learner ranks, the estimator.

`cluster` alone knows of Ray; it is loaded when an actor is wanted.
"""
