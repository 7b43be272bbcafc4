-- RATE requests a second whatever the answers do: each request takes the next place of one schedule, on any
-- connection that is free. Prints what wrk_summary.lua prints.
local ffi = require("ffi")
ffi.cdef("struct timespec { long tv_sec; long tv_nsec; }; int clock_gettime(int, struct timespec *);")

local gap_ms = 1000 / tonumber(os.getenv("RATE"))
local now = ffi.new("struct timespec")
local due_ms

local function now_ms()
    ffi.C.clock_gettime(1, now)
    return tonumber(now.tv_sec) * 1000 + tonumber(now.tv_nsec) / 1e6
end

function delay()
    due_ms = (due_ms or now_ms()) + gap_ms
    return math.max(0, math.floor(due_ms - now_ms()))
end

dofile(os.getenv("WRK_SUMMARY"))
