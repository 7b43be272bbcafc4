/* Compiled into every extension: says which sources it was made from (see setup.py). */
#ifndef RATELIMITD_SOURCE_MARK_H
#define RATELIMITD_SOURCE_MARK_H
__attribute__((used)) static const char ratelimitd_source_mark[] = RATELIMITD_SOURCE;
#endif
