# Nothing here is for Python: the compiled modules use it through request.pxd.
