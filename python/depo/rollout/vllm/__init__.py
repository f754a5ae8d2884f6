"""Rollouts by vLLM.

`engine` generates, `transfer` brings it the learner's weights, `host` keeps what vLLM does to its
process in bounds.
"""
