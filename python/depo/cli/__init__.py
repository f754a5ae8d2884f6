"""Command line: `depo-train CONFIG`, and `depo train | compare | replay | report | init`.

What a user can mend ends in one clear line and exit status 2.
"""

from depo.cli.main import main, train_main

__all__ = ["main", "train_main"]
