"""The control laws of overload: samples in, a level and who passes out."""
