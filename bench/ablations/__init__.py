"""What each part of the default recipe is worth, recorded: ``python -m bench.ablations``."""
