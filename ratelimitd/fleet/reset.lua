-- reset: what was counted for a key is forgotten, and the key goes on with another incarnation.
--
-- KEYS[1]: a key as take.lua keeps it. ARGV[1]: a number for the incarnation (1 to 2^16 - 1). ARGV[2]: for how long
-- the key is kept (ms), longer than nodes take to hear of the reset. Reply: whether there was a key.
--
-- The incarnation before is kept beside the new one: a node that knows it has lost nothing that it would have to
-- charge again, and what it returns of older leases is dropped, since they are not in the sum any more.
local raw = redis.call('GET', KEYS[1])
if not raw then return 0 end
local inc, seen, off = struct.unpack('<I4dd', raw)
local before, nonce = inc % 65536, tonumber(ARGV[1])
if nonce == before then nonce = nonce % 65535 + 1 end
redis.call('SET', KEYS[1], struct.pack('<I4dd', before * 65536 + nonce, seen, off), 'PX', ARGV[2])
return 1
