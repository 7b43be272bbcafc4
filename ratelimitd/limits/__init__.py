"""Who may pass: keys, windows, the shared table and the decision."""
