-- Claims an idempotency key for one request, for a short lease. Returns {token, request, job}: the reservation that holds the key now,
-- this one or an earlier one; job is '' until it is bound to a job. Nothing where the tenant holds as many keys without a job as it may.
-- KEYS: reservation, reservations of the tenant that have no job by when they lapse, its policy
-- ARGV: token, digest of the request, lease_ms, how many there may be where the policy has no number
if redis.call('EXISTS', KEYS[1]) == 0 then
  local now_ms = clock_ms()
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now_ms)
  redis.call('ZREM', KEYS[2], KEYS[1])
  if exceeds(redis.call('ZCARD', KEYS[2]) + 1, bound(KEYS[3], 'reservations', ARGV[4])) then return false end
  redis.call('ZADD', KEYS[2], now_ms + ARGV[3], KEYS[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  redis.call('HSET', KEYS[1], 'token', ARGV[1], 'request', ARGV[2], 'job', '')
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return redis.call('HMGET', KEYS[1], 'token', 'request', 'job')
