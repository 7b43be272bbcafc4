-- reset: what was counted for a key is forgotten, and the key stays what it was: nobody charges it anew.
--
-- KEYS[1]: a key as take.lua keeps it; its first 20 bytes are its incarnation and its clock. ARGV[1]: for how long
-- that is kept (ms), which is longer than a node takes to hear of the reset. Reply: whether there was a key.
local raw = redis.call('GET', KEYS[1])
if not raw then return 0 end
redis.call('SET', KEYS[1], raw:sub(1, 20), 'PX', ARGV[1])
return 1
