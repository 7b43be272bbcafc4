"""The control plane: the supervisor and what it looks after."""
