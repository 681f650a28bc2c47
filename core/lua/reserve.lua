-- Claims an idempotency key for one request, for a short lease. Returns {token, request, job}: the reservation that holds the key now,
-- this one or an earlier one; job is '' until it is bound to a job.
-- KEYS: reservation   ARGV: token, digest of the request, lease_ms
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'token', ARGV[1], 'request', ARGV[2], 'job', '')
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return redis.call('HMGET', KEYS[1], 'token', 'request', 'job')
