"""The data plane: what a worker does with sockets."""
