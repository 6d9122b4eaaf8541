"""The checks of a configuration, one module for each family."""
