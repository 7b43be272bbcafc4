-- secret: what all nodes hash keys with. The first that is offered stays, for as long as somebody asks for it.
--
-- KEYS[1]: a string of 16 bytes. ARGV[1]: what this node offers. ARGV[2]: how long it is kept (ms).
-- Reply: the secret that holds.
local held = redis.call('GET', KEYS[1])
if not held or #held ~= #ARGV[1] then held = ARGV[1] end
redis.call('SET', KEYS[1], held, 'PX', ARGV[2])
return held
