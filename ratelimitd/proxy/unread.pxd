"""Whether a peer has sent what was not read yet."""

cdef extern from "<sys/socket.h>" nogil:
    const int MSG_PEEK
    const int MSG_DONTWAIT
    ssize_t recv(int fd, void* room, size_t size, int flags)


cdef inline bint has_unread(object transport):
    """A system call: for what is about to end a connection, not for every request."""
    cdef char byte
    return recv(transport.get_extra_info("socket").fileno(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0
