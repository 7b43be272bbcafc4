-- changes: what operators and bans changed of single keys, for all nodes to do alike.
--
-- KEYS[1]: a string: '<dd' (incarnation of the list, number of the newest change), then for each change '<ddI2' (its
-- number, TIME us at which it is over, length) and so many bytes that mean something to the nodes alone.
-- ARGV[1]: '<dddd': a number for a new list (1 to 2^32 - 1), incarnation and number of the newest change that the
-- node knows, how many changes are kept. ARGV[2], [3]: a change to add and for how long it holds (ms), and so on.
-- Reply: incarnation, number of the newest change, then for each change that the node does not know, those that it
-- adds included, the ms that are left of it and its bytes.
local nonce, known_inc, known, most = struct.unpack('<dddd', ARGV[1])
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local raw = redis.call('GET', KEYS[1])
local inc, newest, entries, last, changed = nonce, 0, {}, now, false
if raw then
  inc, newest = struct.unpack('<dd', raw)
  local at = 17
  while at <= #raw do
    local number, over, length = struct.unpack('<ddI2', raw, at)
    if over > now then
      entries[#entries + 1] = {number, over, raw:sub(at + 18, at + 17 + length)}
      last = math.max(last, over)
    end
    at = at + 18 + length
  end
end
for i = 2, #ARGV, 2 do
  newest = newest + 1
  local over = now + ARGV[i + 1] * 1000
  entries[#entries + 1] = {newest, over, ARGV[i]}
  last = math.max(last, over)
  changed = true
end
if inc ~= known_inc then known = 0 end
local out, reply = {}, {inc, newest}
for i = math.max(1, #entries - most + 1), #entries do
  local number, over, bytes = unpack(entries[i])
  if changed then out[#out + 1] = struct.pack('<ddI2', number, over, #bytes) .. bytes end
  if number > known then
    reply[#reply + 1] = math.ceil((over - now) / 1000)
    reply[#reply + 1] = bytes
  end
end
if changed then
  redis.call('SET', KEYS[1], struct.pack('<dd', inc, newest) .. table.concat(out), 'PX', math.ceil((last - now) / 1000))
end
return reply
