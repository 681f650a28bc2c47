-- Gives a lock up. Returns 0 if it is not (or no longer) the caller's.
-- KEYS: lock   ARGV: token of the caller
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
