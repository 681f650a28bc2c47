#!lua flags=allow-oom
-- Takes a lock, or renews it for who holds it; also where nothing new is taken, as only who holds it makes room. Returns 1 if it is the caller's now.
-- KEYS: lock   ARGV: token of the caller, ms until it lapses
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
