-- Owes a webhook anew, from now on and with its whole schedule; one that is still owed goes now. Returns 1, or 0 if nothing is kept of it.
-- KEYS: outbox, lane, webhook row, dead letters, dead letters of the tenant, its deliveries that have ended   ARGV: id, lane
if redis.call('EXISTS', KEYS[3]) == 0 then return 0 end
redis.call('HSET', KEYS[3], 'state', 'pending', 'attempts', 0)
redis.call('PERSIST', KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[1])
redis.call('ZADD', KEYS[2], clock_ms(), ARGV[1])
refresh(KEYS[1], ARGV[2])
return 1
