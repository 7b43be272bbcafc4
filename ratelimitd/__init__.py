"""A reverse-proxy rate limiter: limits that hold exactly, in front of web servers that need not know."""

__version__ = "0.1.0"
