"""One limit over many nodes: leases from Redis, and what holds while it is away."""
