"""Rollout engines: they turn prompts into groups of responses
(`depo.types.protocols.RolloutEngine`).
"""
