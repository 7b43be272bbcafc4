-- take: charges one key of one limit, and gives a node units of it that it may spend without asking again.
--
-- KEYS[1]: the key, a string: `<I4dd` (incarnation, with the one before a reset in the upper 16 bits, the key's clock
-- when it was last seen in us, offset of that clock to TIME in us), then `<BI4` for each slot that is not empty: how
-- far below the fourth slot ahead, units.
-- ARGV[1]: '<d...' packed numbers: 1 slot length us, 2 limit, 3 need (cost of what waits), 4 want (use per slot),
-- 5 nodes, 6 known incarnation or 0, 7 nonce for a new one (1 to 2^16 - 1), 8 debt (charged unasked), 9 least
-- (smallest cost that waits), 10 hold us, 11 recent slots of the own list to charge (-1: no own list), 12 number
-- of returns. ARGV[2], if any: the returns as (slot mod 2^16, units), then the own list as (age in slots, units).
-- Reply: granted (-1: the key is another one, come again with your own list), lease, its last slot, us left of
-- that, TIME us, sum, us until capacity returns (0: nobody was denied), incarnation, slot of what was granted, us
-- left of that.
--
-- The sum counts 31 closed slots, the current one and those ahead, and nothing is granted above the limit: a unit
-- that is spent no later than in the slot it is charged to can be in no window that holds more. The key's clock
-- never goes back. The only write is the last command: a call that failed has changed nothing.
local B, AHEAD, LONGEST, KEEP = 31, 4, 10000000, 20000
local floor, min, max, unpack_, pack_ = math.floor, math.min, math.max, struct.unpack, struct.pack
local L, limit, need, want, nodes, known, nonce, debt, least, hold, recent, nret = unpack_('<dddddddddddd', ARGV[1])
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local raw = redis.call('GET', KEYS[1])
local clock, inc, before, off, seen, v, top = now, 0, 0, 0, 0, {}, 0
if raw then
  inc, seen, off = unpack_('<I4dd', raw)
  before, inc = floor(inc / 65536), inc % 65536
  clock = now + off
  if clock < seen then off = off + seen - clock; clock = seen end  -- TIME went back: the key's clock stands, then goes on
  v = {unpack_('<' .. ('BI4'):rep((#raw - 20) / 5), raw, 21)}
  top = floor(seen / L) + AHEAD
end
local cur = floor(clock / L)
local reset = known ~= 0 and known == before            -- nothing is lost: an operator had it forgotten
if known ~= 0 and known ~= inc and not reset and recent < 0 then
  return {-1, 0, cur, 0, now, 0, 0, inc, cur}         -- what this node spent is not in here: come again with the own list
end
local lost = known ~= inc and not reset
if inc == 0 then inc = nonce end
local old, n, h, sum = {}, 0, {0, 0, 0, 0, 0}, 0   -- closed slots (slot, units, ascending); the current one and 4 ahead
for j = 1, #v - 1, 2 do
  local s, u = top - v[j], v[j + 1]
  if s >= cur then h[s - cur + 1] = u; sum = sum + u
  elseif s >= cur - B then old[n + 1] = s; old[n + 2] = u; n = n + 2; sum = sum + u end
end
if ARGV[2] then
  local a, c = {unpack_('<' .. ('d'):rep(#ARGV[2] / 8), ARGV[2])}, {}
  for j = 1, n, 2 do c[old[j]] = old[j + 1] end
  for j = 1, 5 do c[cur + j - 1] = h[j] end
  for j = 1, #a - 1, 2 do
    local s, u = a[j], a[j + 1]
    if j > 2 * nret then
      s = cur - s
      if a[j] <= B and (lost or a[j] <= recent) then c[s] = (c[s] or 0) + u end
    elseif not lost and not reset then
      s = cur + AHEAD - (cur + AHEAD - s) % 65536       -- nodes keep 16 bits of a slot
      if c[s] then c[s] = max(0, c[s] - u) end
    end
  end
  old, n, sum = {}, 0, 0
  for s = cur - B, cur + AHEAD do
    local u = min(c[s] or 0, 4294967295)
    sum = sum + u
    if s >= cur then h[s - cur + 1] = u elseif u > 0 then old[n + 1] = s; old[n + 2] = u; n = n + 2 end
  end
end
h[1] = h[1] + debt                                    -- after the returns: they must not eat it
sum = sum + debt
local free = max(0, limit - sum)                      -- slots ahead are in the sum
local granted = min(need, free)
local at = min(AHEAD, floor((clock + hold) / L) - cur)
h[at + 1] = h[at + 1] + granted
free = free - granted
local last = 0
if free * 4 > limit then last = min(AHEAD, floor(LONGEST / L)) end
local lease = min(want * (last + 1), floor(free / nodes))
h[last + 1] = h[last + 1] + lease
sum = sum + granted + lease
local deny = 0
if granted < need then                                -- when will `least` units be free again
  local rest, s = sum, nil
  for j = 1, n, 2 do rest = rest - old[j + 1]; if rest + least <= limit then s = old[j] break end end
  if not s then for j = 1, 5 do rest = rest - h[j]; if rest + least <= limit then s = cur + j - 1 break end end end
  if s then deny = (s + B + 1) * L - clock end
end
for j = 1, n, 2 do old[j] = cur + AHEAD - old[j] end
local newest = 0
for j = 1, 5 do
  if h[j] > 0 then old[n + 1] = AHEAD + 1 - j; old[n + 2] = min(h[j], 4294967295); n = n + 2; newest = j - 1 end
end
redis.call('SET', KEYS[1], pack_('<I4dd' .. ('BI4'):rep(n / 2), before * 65536 + inc, clock, off, unpack(old)),
  'PX', math.ceil((newest + B + 2) * L / 1000) + KEEP)
return {granted, lease, cur + last, min((cur + last + 1) * L - clock, LONGEST), now, sum, deny, inc, cur + at,
  (cur + at + 1) * L - clock}
