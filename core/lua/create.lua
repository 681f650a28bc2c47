-- Records a job that is being accepted, and counts it as its tenant's and its key's. Returns 1, 0 if the id exists (a retried call: the record
-- is the same), or -n if the tenant has all n jobs waiting that it may have.
-- KEYS: job, tenant index, accepting, deadlines, counts, usage of the key today ('' for none),
--       counts of the tenant, its policy
-- ARGV: id, spec, deadline_ms ('' for none), seconds to keep a day of usage,
--       jobs that may wait where the policy has no number (0: any number)
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local most = tonumber(redis.call('HGET', KEYS[8], 'queued_jobs') or ARGV[5])
if most > 0 and tonumber(redis.call('HGET', KEYS[7], 'queued') or 0) >= most then return -most end
redis.call('HSET', KEYS[1], 'spec', ARGV[2], 'status', 'queued', 'attempts', 0, 'seq', 0, 'step', 0)
redis.call('ZADD', KEYS[2], 0, ARGV[1])
redis.call('ZADD', KEYS[3], clock_ms(), ARGV[1])
if ARGV[3] ~= '' then redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1]) end
redis.call('HINCRBY', KEYS[5], 'queued', 1)
redis.call('HINCRBY', KEYS[7], 'queued', 1)
if KEYS[6] ~= '' then
  redis.call('HINCRBY', KEYS[6], 'jobs', 1)
  redis.call('EXPIRE', KEYS[6], ARGV[4])
end
return 1
