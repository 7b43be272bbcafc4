-- changes: what operators and `ban` rules changed of single keys, in one order for all nodes.
--
-- KEYS[1]: a string: '<ddd' (incarnation of the list, number of the newest change, TIME us at which the last one is
-- over), then '<c8ddBc8c8' for each change: its id, number, TIME us at which it is over, kind, limit, key.
-- ARGV[1]: '<ddddd': a number for a new list (1 to 2^32 - 1), incarnation and number of the newest change that the
-- node knows, room for all changes, room for all where a `ban` rule adds one. ARGV[2], if any: changes to add, as
-- '<c8dBc8c8' with how long each holds (us). One that is there already, or finds no room, is not added.
-- Reply: incarnation (0: no list), number of the newest, TIME us, the changes that the node does not know, as stored.
--
-- What is over makes room when there is none. Who knows another list, or more of this one, adds nothing and is told all
-- of it: what that node knows and this list lacks comes before what it has to add.
local HEAD, SIZE, ADDED, BY_RULE = 24, 41, 33, 4
local nonce, known_inc, known, room, room_rule = struct.unpack('<ddddd', ARGV[1])
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local raw = redis.call('GET', KEYS[1])
local inc, newest, last, list = 0, 0, 0, ''
if raw then
  inc, newest, last = struct.unpack('<ddd', raw)
  list = raw:sub(HEAD + 1)
end
local is_known = inc == known_inc and known <= newest
if ARGV[2] and is_known then
  local count, added = #list / SIZE, {}
  if count + #ARGV[2] / ADDED > room_rule then
    local kept = {}
    for at = 1, #list, SIZE do
      if struct.unpack('<d', list, at + 16) > now then kept[#kept + 1] = list:sub(at, at + SIZE - 1) end
    end
    list, count = table.concat(kept), #kept
  end
  for at = 1, #ARGV[2], ADDED do
    local id, lasts, kind = struct.unpack('<c8dB', ARGV[2], at)
    if count + #added < (kind == BY_RULE and room_rule or room) and not list:find(id, 1, true) then
      newest = newest + 1
      last = math.max(last, now + lasts)
      added[#added + 1] = struct.pack('<c8dd', id, newest, now + lasts) .. ARGV[2]:sub(at + 16, at + ADDED - 1)
    end
  end
  if #added > 0 then
    if inc == 0 then inc = nonce end
    list = list .. table.concat(added)
    redis.call('SET', KEYS[1], struct.pack('<ddd', inc, newest, last) .. list,
      'PX', math.max(1, math.ceil((last - now) / 1000)))
  end
end
if not is_known then known = 0 end
local from = #list + 1
while from > SIZE and struct.unpack('<d', list, from - SIZE + 8) > known do from = from - SIZE end
return {inc, newest, now, list:sub(from)}
