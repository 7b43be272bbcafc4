-- For comparison: the usual sliding window in Redis, one round trip for all limits of a request.
--
-- KEYS: one for each limit, a hash of (number of the window, count in it, count in the one before). ARGV: the
-- window in seconds, then the limit of each key. All keys are charged or none. Reply: 1 admitted, 0 refused.
local time = redis.call('TIME')
local at = (time[1] + time[2] / 1000000) / ARGV[1]
local window = math.floor(at)
local counts = {}
for i, key in ipairs(KEYS) do
  local held = redis.call('HMGET', key, 'w', 'c', 'p')
  local number, count, before = tonumber(held[1]), tonumber(held[2]) or 0, tonumber(held[3]) or 0
  if number ~= window then
    before = number == window - 1 and count or 0
    count = 0
  end
  if count + before * (window + 1 - at) + 1 > tonumber(ARGV[i + 1]) then return 0 end
  counts[i] = {count + 1, before}
end
for i, key in ipairs(KEYS) do
  redis.call('HSET', key, 'w', window, 'c', counts[i][1], 'p', counts[i][2])
  redis.call('PEXPIRE', key, ARGV[1] * 2000)
end
return 1
