"""Rollout engines.

They turn prompts into groups of responses (`depo.types.protocols.RolloutEngine`).
"""
