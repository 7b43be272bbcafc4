"""What operators run beside the daemon."""
