"""Adapters to training frameworks: `depo.integrations.trl`, `.verl`, `.slime`.

Each module needs its framework. Without it, the ImportError names the command that installs it.
"""
