"""What a run will need, found out without starting it: `depo-train CONFIG --dry-run`."""
