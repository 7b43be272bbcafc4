"""The memory that supervisor and workers share: registries, counter pages, and the table of windows."""
