-- nodes: a sign of life of one node, and how many there are.
--
-- KEYS[1]: a string: '<d' (incarnation of the list), then '<c8dd' for each node: its id, TIME us of its last sign,
-- for how long it has had the store without a break (ms; 0: it still has to tell what it admitted meanwhile).
-- ARGV[1]: '<c8ddddd': id, a number for a new list (1 to 2^32 - 1), since when the node has the store (ms ago, as
-- above; -1: it leaves), from which TIME us on others count as back, for how long the node was away (us), how long
-- the list is kept (ms).
-- Reply: nodes alive, those of them that are back and have told, the longest that another has had the store that gave
-- a sign while this one was away (ms),
-- incarnation, TIME us.
--
-- A node that gave no sign for 5 s is gone. One whose sign is more than 5 s ahead is so by a clock that was set back.
local GONE = 5000000
local id, nonce, held, since, away, keep = struct.unpack('<c8ddddd', ARGV[1])
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local raw = redis.call('GET', KEYS[1])
local inc, alive, back, longest, out = nonce, 0, 0, 0, {}
if raw then
  inc = struct.unpack('<d', raw)
  for at = 9, #raw - 23, 24 do
    local other, seen, has = struct.unpack('<c8dd', raw, at)
    if other ~= id and math.abs(now - seen) < GONE then
      out[#out + 1] = raw:sub(at, at + 23)
      alive = alive + 1
      if has > 0 and seen >= since then back = back + 1 end
      if now - seen < away then longest = math.max(longest, has) end
    end
  end
end
if held >= 0 then
  out[#out + 1] = struct.pack('<c8dd', id, now, held)
  alive = alive + 1
  if held > 0 then back = back + 1 end
end
redis.call('SET', KEYS[1], struct.pack('<d', inc) .. table.concat(out), 'PX', keep)
return {alive, back, longest, inc, now}
