"""The sampler inside other people's trainers: `depo.integrations.trl`, `.verl`, `.slime`.

Each module needs its framework, and says how to install it.
"""
