# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""Calls of `take.lua` as the bytes that are sent: what `take.Take` and `script.Script` make, for every call of a worker.

Only bytes are made here. A server that does not know the script is sent all of it, with the rest of the same command.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from ratelimitd.fleet.take import TAKE

cdef enum:
    HASH_DIGITS = 16
    NUMBERS_SIZE = TAKE_NUMBERS * sizeof(double)

cdef const char* DIGITS = b"0123456789abcdef"


cdef bytes words(bytes name, bytes script):
    """What a command begins with, up to its key; the number of its words stands before it."""
    return b"$%d\r\n%b\r\n$%d\r\n%b\r\n$1\r\n1\r\n" % (len(name), name, len(script), script)


cdef bytes BY_DIGEST = words(b"EVALSHA", TAKE.digest)
cdef bytes WHOLE = words(b"EVAL", TAKE.text)
cdef bytes WITHOUT_PAIRS = b"*5\r\n"
cdef bytes WITH_PAIRS = b"*6\r\n"


cdef char* put(char* out, const void* text, Py_ssize_t n) noexcept:
    memcpy(out, text, n)
    return out + n


cdef Py_ssize_t framed(Py_ssize_t n) noexcept:
    """How many bytes a word of `n` is, with the line that says so and the end of its own."""
    cdef Py_ssize_t size = n + len(b"$1\r\n\r\n")
    while n >= 10:
        n //= 10
        size += 1
    return size


cdef char* put_length(char* out, Py_ssize_t n) noexcept:
    cdef char* end = out + framed(n) - n - 2
    cdef char* at = end - 2
    out[0] = c"$"
    put(at, b"\r\n", 2)
    while at > out + 1:
        at -= 1
        at[0] = c"0" + <char>(n % 10)
        n //= 10
    return end


cdef char* put_word(char* out, const void* word, Py_ssize_t n) noexcept:
    return put(put(put_length(out, n), word, n), b"\r\n", 2)


cdef char* put_name(char* out, bytes prefix, uint64_t key) noexcept:
    cdef int i
    out = put(out, PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix))
    for i in range(HASH_DIGITS):
        out[i] = DIGITS[key >> 4 * (HASH_DIGITS - 1 - i) & 15]
    out[HASH_DIGITS] = c"}"
    return out + HASH_DIGITS + 1


cdef bytes key_name(bytes prefix, uint64_t key):
    """The name of a key in the store: `prefix` is what `names.key_prefix` made."""
    cdef bytes name = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(prefix) + HASH_DIGITS + 1)
    put_name(PyBytes_AS_STRING(name), prefix, key)
    return name


cdef bytes take_command(bytes prefix, uint64_t key, const double* numbers, const double* pairs, int pair_count):
    """The command that runs the script by its digest. `numbers` are the TAKE_NUMBERS of its first argument, `pairs`
    those of its second, where there are any."""
    cdef bytes begin = WITH_PAIRS if pair_count else WITHOUT_PAIRS
    cdef Py_ssize_t name_size = PyBytes_GET_SIZE(prefix) + HASH_DIGITS + 1
    cdef Py_ssize_t pairs_size = 2 * pair_count * sizeof(double)
    cdef bytes command = PyBytes_FromStringAndSize(
        NULL, PyBytes_GET_SIZE(begin) + PyBytes_GET_SIZE(BY_DIGEST) + framed(name_size) + framed(NUMBERS_SIZE) + (
            framed(pairs_size) if pair_count else 0))
    cdef char* out = put(PyBytes_AS_STRING(command), PyBytes_AS_STRING(begin), PyBytes_GET_SIZE(begin))
    out = put(out, PyBytes_AS_STRING(BY_DIGEST), PyBytes_GET_SIZE(BY_DIGEST))
    out = put(put_name(put_length(out, name_size), prefix, key), b"\r\n", 2)
    out = put_word(out, numbers, NUMBERS_SIZE)
    if pair_count:
        put_word(out, pairs, pairs_size)
    return command


cdef bytes whole_command(bytes command):
    """The same call for a server that does not know the script."""
    cdef Py_ssize_t behind = PyBytes_GET_SIZE(WITH_PAIRS)
    return command[:behind] + WHOLE + command[behind + PyBytes_GET_SIZE(BY_DIGEST) :]


def packed(bytes prefix not None, uint64_t key, numbers, pairs=()):
    """`take_command` in words of Python."""
    cdef double first[TAKE_NUMBERS]
    cdef double second[2 * MOST_PAIRS]
    if len(numbers) != TAKE_NUMBERS or len(pairs) > MOST_PAIRS:
        raise ValueError("the script takes other numbers")
    for i, number in enumerate(numbers):
        first[i] = number
    for i, (left, right) in enumerate(pairs):
        second[2 * i], second[2 * i + 1] = left, right
    return take_command(prefix, key, first, second, len(pairs))


def whole(bytes command not None):
    """`whole_command` in words of Python."""
    return whole_command(command)
