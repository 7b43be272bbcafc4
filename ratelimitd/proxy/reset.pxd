"""Ending a connection so that its peer cannot take the end for a good one."""

cdef extern from "<sys/socket.h>" nogil:
    const int SOL_SOCKET
    const int SO_LINGER
    struct linger:
        int l_onoff
        int l_linger
    int setsockopt(int fd, int level, int name, const void* value, unsigned int size)


cdef inline void reset(object transport):
    """Throws away what was not sent yet, and has the system send a reset instead of an end."""
    cdef linger no_linger
    no_linger.l_onoff, no_linger.l_linger = 1, 0
    setsockopt(transport.get_extra_info("socket").fileno(), SOL_SOCKET, SO_LINGER, &no_linger, sizeof(no_linger))
    transport.abort()
