-- Binds an idempotency key to the job that was made under it, before the job is queued. Returns 1, or 0 if the key is another
-- request's by now, or if the record is gone. A lease that lapsed and that nobody took is taken again.
-- KEYS: reservation, job, reservations of the tenant that have no job   ARGV: token, digest of the request, job id, ttl_ms
local token = redis.call('HGET', KEYS[1], 'token')
if token and token ~= ARGV[1] then return 0 end
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'request', ARGV[2], 'job', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('HSET', KEYS[2], 'reservation', KEYS[1])
redis.call('ZREM', KEYS[3], KEYS[1])
return 1
