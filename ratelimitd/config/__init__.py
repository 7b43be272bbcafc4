"""YAML to a validated, frozen Config; errors with file, line and column."""
