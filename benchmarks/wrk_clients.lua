-- Every request is the first of another client, as a proxy before us tells it; FIRST is the first of them.
local number = tonumber(os.getenv("FIRST"))
local before, after

function init()
    local text = wrk.format(nil, nil, nil, nil)
    before, after = text:match("^(.-\r\n)(.*)$")
    before = before .. "X-Forwarded-For: 198."
end

function request()
    local n = number
    number = n + 1
    return before .. bit.band(bit.rshift(n, 16), 255) .. "." .. bit.band(bit.rshift(n, 8), 255) .. "."
        .. bit.band(n, 255) .. "\r\n" .. after
end

dofile(os.getenv("WRK_SUMMARY"))
