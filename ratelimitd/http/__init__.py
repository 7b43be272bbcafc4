"""HTTP/1.1 as bytes in, values out: no socket, clock or log."""
