"""Long runs: one agent gets work for minutes, its answers are checked, and its memory and descriptors are watched."""
